# A worker on CPUs; also the image of the Prefect server and of `fem deploy` in compose.yaml. From the checkout:
#   docker build -f deployments/containers/cpu.Dockerfile --build-arg FEM_COMMIT="$(git rev-parse HEAD)" -t fem:cpu .
FROM python:3.11.13-slim-bookworm AS packages
WORKDIR /opt/fem
COPY . .
RUN deployments/setup.sh cpu

FROM python:3.11.13-slim-bookworm
ARG FEM_COMMIT=""
RUN useradd --uid 10001 --create-home fem && install -d -o fem -g fem /work
COPY --from=packages /opt/fem /opt/fem
ENV PATH=/opt/fem/.venv/bin:$PATH \
    FEM_COMMIT=$FEM_COMMIT \
    FEM_CACHE=/work/cache \
    PREFECT_HOME=/work/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/work/prefect/ui \
    PREFECT_WORKER_WEBSERVER_HOST=127.0.0.1 \
    DO_NOT_TRACK=1
USER 10001
WORKDIR /work
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-m", "deployments.health", "http://127.0.0.1:8080/health"]
CMD ["python", "-m", "prefect", "--no-prompt", "worker", "start", "--pool", "fem", "--type", "process", "--with-healthcheck"]
