# glibc: the embedded store's binary and several wheels are made for it.
FROM python:3.11-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# With OpenTelemetry: --build-arg PACKAGES="-r requirements.txt -r requirements-otel.txt"
ARG PACKAGES="-r requirements.txt"
COPY requirements.txt requirements-otel.txt ./
RUN python -m venv /opt/headrace \
    && /opt/headrace/bin/pip install $PACKAGES \
    && /opt/headrace/bin/pip uninstall -y pip setuptools
COPY . /app
WORKDIR /app
RUN /opt/headrace/bin/python -m config.translations \
    && /opt/headrace/bin/python -m compileall -q /opt/headrace /app


# What runs: packages and code, nothing to build with.
FROM python:3.11-slim-bookworm

RUN useradd --system --uid 10001 --create-home headrace \
    && mkdir -m 700 /data && chown headrace:headrace /data \
    && pip uninstall -y pip setuptools wheel
COPY --from=build /opt/headrace /opt/headrace
COPY --from=build /app /app
WORKDIR /app

USER headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 PORT=8000 DATA_DIR=/data LOG_FORMAT=json
VOLUME /data
EXPOSE 8000

HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD \
    ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=4)"]

# SIGTERM drains: running answers have 20 s, then sockets are sent away over 3 s. Give it 40 s before a SIGKILL.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "manage.py"]
CMD ["serve"]
