"""What methods share: config sections with pure functions, held as fields and called in the order of a paper."""
