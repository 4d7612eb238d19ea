# uda_jax in a container, for the CPU, NVIDIA GPUs or TPUs:
#
#   docker build -t uda_jax .                                    # CPU
#   docker build -t uda_jax:cuda --build-arg EXTRAS=cuda .       # CUDA 13 comes with it; the host needs driver 580
#   docker run --rm uda_jax                                      # uda --help
#   docker run --rm --gpus all --shm-size=8g -v "$PWD/data:/home/uda/data" -v "$PWD/runs:/home/uda/runs" \
#     uda_jax:cuda train --config advent:streets --workdir runs/advent
#
# EXTRAS takes any of pyproject.toml's, several with commas. On GPUs the host needs the NVIDIA container toolkit. It runs
# as user 1000, who has to be able to write into runs. This file was linted, but no image was ever built from it.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=export
# Python 3.11 needs constraints.txt instead.
ARG PINS=constraints-newest.txt
WORKDIR /src
COPY pyproject.toml constraints.txt constraints-newest.txt ./
# What the project needs, with an empty package in its place: a layer that stays while only the sources change.
RUN mkdir uda_jax configs && touch README.md LICENSE uda_jax/__init__.py \
    && python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --constraint "${PINS}" "uda_jax[${EXTRAS}] @ file:///src" \
    && /opt/venv/bin/python -m pip uninstall --yes uda_jax
COPY README.md LICENSE ./
COPY configs configs
COPY uda_jax uda_jax
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 uda
COPY --from=build /opt/venv /opt/venv
# The two of NVIDIA are how its toolkit knows that the container wants GPUs.
ENV PATH=/opt/venv/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /home/uda
ENTRYPOINT ["uda"]
CMD ["--help"]
