# What a server needs to run, and nothing else. docs/image.md is for its users.

FROM python:3.11-slim-bookworm AS wheels
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY session_service session_service
COPY clients/python/session_client clients/python/session_client
# All extras of pyproject.toml.
ARG EXTRAS=jwt,otel,prometheus,uvloop
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[${EXTRAS}]"

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="session-service" \
      org.opencontainers.image.description="Interactive sessions written as straight-line Python, driven by any gRPC client over one stream." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://github.com/session-service/session-service"
# The wheels are mounted, not copied: a layer would keep them. What pip installs it compiles, for a root file system that
# is read-only later.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps --root-user-action=ignore /wheels/*.whl
# By number, so that Kubernetes sees that it is not root; with a name, since some libraries ask for one.
RUN useradd --uid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin session-service
# The modules of this folder can be served. Made before there is another user, it is root's.
WORKDIR /app
USER 10001:10001
# Logs as they are written, and no __pycache__ in a folder that somebody mounts.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SESSION_SERVICE_LISTEN=0.0.0.0:50051
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s CMD ["session-service", "healthcheck"]
ENTRYPOINT ["session-service"]
CMD ["serve", "--insecure", "session_service.examples:apps"]
