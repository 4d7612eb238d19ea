"""What a trained network is used for: scores of images, evaluation, prediction."""
