# One file, three images, each with the lock file of its part only:
#   docker build --target gateway .     the gRPC gateway; no TensorFlow
#   docker build --target jobs .        data, features, training, export; every `longtail` command but those of extras
#   docker build --target loadtest .    locust and the client side of the wire
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/longtail/bin:$PATH \
    HOME=/tmp \
    LONGTAIL_STATE_DIR=/state
# One user in all images, so that they share the state volume.
RUN groupadd --gid 10001 longtail \
    && useradd --uid 10001 --gid longtail --no-create-home --home-dir /tmp --shell /usr/sbin/nologin longtail \
    && install --directory --owner=longtail --group=longtail /state /reports \
    && python -m venv /opt/longtail
WORKDIR /state

FROM base AS gateway-environment
COPY requirements/runtime.txt /build/requirements.txt
RUN pip install --no-deps --require-hashes --requirement /build/requirements.txt

FROM base AS jobs-environment
COPY requirements/train.txt /build/requirements.txt
RUN pip install --no-deps --require-hashes --requirement /build/requirements.txt

FROM base AS loadtest-environment
COPY requirements/loadtest.txt /build/requirements.txt
RUN pip install --no-deps --require-hashes --requirement /build/requirements.txt

# Our own wheel, built with the setuptools of the lock file.
FROM gateway-environment AS wheel
COPY pyproject.toml README.md /build/
COPY cli /build/cli
COPY feature_repo /build/feature_repo
COPY loadtest /build/loadtest
COPY outcomes /build/outcomes
COPY console /build/console
COPY protos /build/protos
COPY serving /build/serving
COPY simulator /build/simulator
COPY training /build/training
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /build

FROM gateway-environment AS gateway
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
COPY deploy/healthy.py /opt/longtail/healthy.py
USER 10001:10001
EXPOSE 50051 9464
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "/opt/longtail/healthy.py", "127.0.0.1:50051"]
ENTRYPOINT ["longtail"]
CMD ["gateway"]

FROM jobs-environment AS jobs
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
USER 10001:10001
# A job ends by itself; its exit code is its health.
HEALTHCHECK NONE
ENTRYPOINT ["longtail"]
CMD ["--help"]

FROM loadtest-environment AS loadtest
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["longtail", "loadtest"]
CMD ["--help"]
