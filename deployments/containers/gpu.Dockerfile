# A worker on NVIDIA GPUs; the container runtime brings the driver, the packages bring CUDA. From the checkout:
#   docker build -f deployments/containers/gpu.Dockerfile --build-arg FEM_COMMIT="$(git rev-parse HEAD)" -t fem:gpu .
FROM python:3.11.13-slim-bookworm AS packages
WORKDIR /opt/fem
COPY . .
RUN deployments/setup.sh gpu

FROM python:3.11.13-slim-bookworm
ARG FEM_COMMIT=""
# Triton compiles its launchers when an engine starts. Debian keeps only the newest build of a release, so no pin holds.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home fem && install -d -o fem -g fem /work
COPY --from=packages /opt/fem /opt/fem
ENV PATH=/opt/fem/.venv/bin:$PATH \
    FEM_COMMIT=$FEM_COMMIT \
    FEM_CACHE=/work/cache \
    PREFECT_HOME=/work/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1 \
    DO_NOT_TRACK=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /work
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-m", "deployments.health", "http://127.0.0.1:8080/health"]
CMD ["python", "-m", "prefect", "--no-prompt", "worker", "start", "--pool", "fem", "--type", "process", "--with-healthcheck"]
