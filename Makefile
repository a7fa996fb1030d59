# The commands a person types. The build itself is CMake's: see CMakePresets.json for build types.
JOBS ?= $(shell nproc)
DEVICE ?= auto
PYTHON ?= python3
# OpenMP's threads give way sooner than by default, so that a busy machine does not stall them.
export GOMP_SPINCOUNT ?= 10000
# ccache, where there is one, must take a precompiled header for what it is.
export CCACHE_SLOPPINESS ?= pch_defines,time_macros
CMAKE_BUILD = cmake --build $(1) -j $(JOBS) $(2)

.PHONY: quickstart test check-all bench docs golden-check build-report format clean deps deps-cuda test-deps configure

# Trains a small network on Fashion-MNIST and leaves its results in runs/.
quickstart: configure
	$(call CMAKE_BUILD,build,--target fashion_mnist)
	build/examples/fashion_mnist --device $(DEVICE) $(ARGS)

test: test-deps configure
	$(call CMAKE_BUILD,build)
	@tools/run-tests build

# Everything at full size, under every sanitizer; the counts go to bench/results/check.json.
check-all: test-deps configure
	tools/check-all

# Writes bench/results/cpu.json; with a PYTHON that has PyTorch (2.11 or later), its rows stand beside FLAME's.
bench: configure
	$(call CMAKE_BUILD,build,--target cpu_bench --target ops_bench)
	$(PYTHON) bench/cpu.py $(ARGS)

# Makes the golden values again and compares: make golden-check PYTHON=/path/of/a/python/with/torch
golden-check:
	$(PYTHON) tools/golden.py --check
	@mkdir -p build
	$(PYTHON) tools/golden_optim.py build/golden-optim.json
	cmp build/golden-optim.json tests/golden/optim.json
	$(PYTHON) tools/golden_layers.py build/golden-layers.json
	cmp build/golden-layers.json tests/golden/layers.json

# docs/ops.md, from the registry.
docs: configure
	$(call CMAKE_BUILD,build,--target op_reference)
	cp build/docs/ops.md docs/ops.md

build-report: configure
	tools/build-report

format:
	git ls-files '*.h' '*.cpp' | xargs clang-format-16 -i

clean:
	rm -rf build build-*

deps:
	@tools/install-deps

# What the CUDA device needs, where no CUDA toolkit with cuDNN is installed: NVIDIA's wheels. By itself where there is a driver.
deps-cuda:
	@tools/install-deps --cuda
	@test ! -f build/build.ninja || cmake --preset release

test-deps:
	@tools/install-deps --test

# Ninja configures again by itself when a CMake file or a list of sources changed.
configure: deps
	@if [ ! -f build/build.ninja ] || [ .deps/cuda -nt build/build.ninja ]; then cmake --preset release && touch build/build.ninja; fi
