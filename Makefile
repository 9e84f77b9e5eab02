# One environment for everything: .venv, with the versions of requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check lint lock runner app clean browser

demo: $(READY)
	$(BIN)/compress-export alexnet --data digits --target android

test: $(READY) build/.tools browser lint
	$(BIN)/pytest -n 2 -m "slow or not slow"

check: $(READY) build/.tools browser lint
	$(BIN)/pytest -n 2 -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(READY)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-emit-index-url \
	  --custom-compile-command "make lock" --group dev pyproject.toml -o requirements.lock

# The tests open the report in a real browser; Debian's is installed where we may.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q chromium chromium-driver; } || \
	  { echo "Chromium and its driver are missing: sudo apt-get install chromium chromium-driver"; exit 1; }

# The programs that run files on a phone and on the simulated ARM CPU (build/runner), and that CPU (build/simulator).
runner: $(READY) build/.tools
	$(BIN)/python -m bench.runner.build
	$(BIN)/python -m bench.simulator.build

# The Android app (build/app/bundle): compiled by Maven, packaged by Android's own tools.
app: $(READY) build/.tools
	$(BIN)/python -m bench.phone.app_build

# Debian's cross compiler, emulator and adb client for the runner, its Java and Android tools for the app, and all of
# them for the tests; where we may, they are installed.
# Written as command:package; only packages whose command is missing are installed, for a machine may have npm from
# elsewhere, which Debian's would not go with.
TOOLS := adb:adb g++:g++ aarch64-linux-gnu-g++:g++-aarch64-linux-gnu qemu-aarch64:qemu-user
APP_TOOLS := javac:default-jdk-headless mvn:maven npm:npm aapt2:aapt zipalign:zipalign apksigner:apksigner
build/.tools: Makefile
	@mkdir -p build
	@missing() { for each; do command -v $${each%:*} >/dev/null || echo $${each#*:}; done; }; \
	  tools=$$(missing $(TOOLS)); app=$$(missing $(APP_TOOLS)); [ -z "$$tools$$app" ] || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -q && { [ -z "$$tools" ] || apt-get install -y -q $$tools; } && \
	    { [ -z "$$app" ] || apt-get install -y -q --no-install-recommends $$app; }; } || \
	  { echo "Tools are missing: sudo apt-get install" $$tools $$app; exit 1; }
	@touch $@

clean:
	rm -rf .venv build

# Debian's python3 comes without venv; where that is so and we may, its package is installed.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 demo"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q python3-venv; } || \
	  { echo "Python's venv is missing: sudo apt-get install python3-venv"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo "Installing (about 3 GB to download, 7 GB on disk) ..."
	$(BIN)/pip install -q --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	@# Compiled now, once: a run starts a dozen processes, and where Python may not write its caches, each would
	@# compile torch again (7.7 s instead of 1.4 s for the import).
	$(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $(READY)
