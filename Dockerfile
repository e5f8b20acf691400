# docker build --tag rdunet .                              for processors
# docker build --tag rdunet --build-arg EXTRA=cuda .       for NVIDIA GPUs
# docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" rdunet demo --output demo
# For GPUs add --gpus all: the driver is the host's, CUDA is in the image. The folder that is mounted as /work is also the
# home: it keeps the key of the pseudonyms and the compiled programs.
FROM python:3.13-slim-bookworm

ARG EXTRA=

WORKDIR /opt/rdunet
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rdunet_jax rdunet_jax
COPY data_pipeline data_pipeline
RUN python3 -m venv .venv
RUN .venv/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".${EXTRA:+[$EXTRA]}"
RUN .venv/bin/rdunet --version

ENV PATH=/opt/rdunet/.venv/bin:$PATH HOME=/work
WORKDIR /work
ENTRYPOINT ["rdunet"]
CMD ["--help"]
