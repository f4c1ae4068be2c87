# fastconv from a fresh clone: python3 (3.11 or newer), a C++20 compiler and make are all it takes.
# Versions are pinned in pyproject.toml, [dependency-groups]; pip itself here, because the groups
# need pip 25.1 to be read at all.

PIP_VERSION := 26.3
PYTHON ?= python3
export CXX

BIN := .venv/bin
SOURCES = $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
# The tests of the ops that have kernels, by stem. `make sanitize` leaves out those that exercise
# torch's transforms around a kernel which others of the same file run: opcheck, gradcheck, compile.
KERNEL_TESTS = $(wildcard $(patsubst csrc/kernels/%.def,tests/test_%.py,$(wildcard csrc/kernels/*.def))) \
	tests/test_separable_conv2d.py tests/test_depthwise_conv2d_strips.py tests/test_bfloat16.py \
	tests/test_sequence.py tests/test_direct.py tests/test_walk.py tests/test_winograd.py \
	tests/test_pointwise_panels.py tests/test_squeeze_excitation.py

.PHONY: help demo test test-isa build emulator check format bench bench-cpu bench-quick bench-gate sanitize sanitize-cuda gpu clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: build  ## EfficientNet-Lite0 on real photos: torch, fastconv and their peers
	$(BIN)/fastconv demo

# Two workers on as many cores must not spin while they wait for each other: half the time.
test: build emulator .venv/toolchains  ## all tests
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest tests -n 2 --dist worksteal

ISA ?= scalar
test-isa: build emulator .venv/toolchains  ## all tests on the instruction set ISA: scalar, avx2, avx512, avx512_bf16 or amx
	FASTCONV_ISA=$(ISA) OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest tests -n 2 --dist worksteal

build: .venv/installed  ## .venv and the kernels, both brought up to date
	@$(BIN)/python setup.py -q build_ext --inplace

emulator: .venv/installed  ## the CUDA kernels for the CPU, which tests run
	@$(BIN)/python setup.py -q build_emulator

check: .venv/toolchains  ## formatters, linters and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)

format: .venv/installed  ## format Python and C++ in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(SOURCES)

# GOALS="pointwise training" takes these rows only, GOALS=--resume those that are not there yet.
bench-cpu: build  ## the goals of the CPU kernels beside what is reached here
	$(BIN)/python -m bench.goals $(GOALS) --json build/goals.json

# pytest-benchmark's own tables go to a file: they are as long as there are shapes.
KERNELS = $(BIN)/python -m pytest bench --benchmark-group-by=group --benchmark-sort=name

bench-quick: build  ## a choice of kernels against all their rivals, in two to four minutes
	$(KERNELS) --benchmark-json=build/quick.json > build/quick.txt || { cat build/quick.txt; exit 1; }
	$(BIN)/python -m bench.summary build/quick.json

NETWORK ?= efficientnet_lite0
bench: build  ## all kernels of NETWORK against all their rivals, then the whole network
	$(KERNELS) --network $(NETWORK) --batch 1 --batch 16 --benchmark-json=build/kernels.json \
		> build/kernels.txt || { cat build/kernels.txt; exit 1; }
	$(BIN)/python -m bench.summary build/kernels.json
	$(BIN)/fastconv compare $(NETWORK) --batch 1 --batch 16

bench-gate: build  ## exit status 1 if a kernel lost against torch: bench/results/gate.json
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.gate

# --import-mode=append, or pytest would put this folder, and the normal build in it, first.
# libstdc++ goes with libasan: python links neither, and throwing needs both from the start.
# --capture=sys leaves the sanitizers' own stderr alone: their report precedes the abort.
SANITIZED := build/sanitized
SANITIZER_RUN = env LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 \
	UBSAN_OPTIONS=halt_on_error=1

sanitize: sanitize-cuda  ## the kernels' tests under AddressSanitizer and UBSan
	FASTCONV_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib $(SANITIZED)
	$(SANITIZER_RUN) PYTHONPATH=$(SANITIZED) $(BIN)/pytest --import-mode=append --capture=sys -x $(KERNEL_TESTS) \
		-k "not (opcheck or derivatives or compile)"

sanitize-cuda: build .venv/toolchains  ## the CUDA kernels in the emulator under AddressSanitizer and UBSan
	FASTCONV_SANITIZE=1 $(BIN)/python setup.py -q build_emulator
	$(SANITIZER_RUN) FASTCONV_SANITIZE=1 $(BIN)/python -m pytest -x --capture=sys tests/cuda \
		--ignore=tests/cuda/test_compile.py --ignore=tests/cuda/test_nvrtc.py

# On a machine with a GPU nothing is installed: the system's Python, torch, nvcc and pytest serve.
# DRY=1 does in .venv, with no GPU, all that can be done there. ONLY=bench takes the steps of that name,
# RESUME=results/kernels.json goes on with the comparison of an earlier run.
OUT ?= build/gpu
ifdef DRY
gpu: .venv/toolchains emulator
endif
gpu:  ## on a GPU, with the system's torch: build, tests, sanitizer, comparison, results in OUT
	$(if $(DRY),$(BIN)/python,$(PYTHON)) -m bench.gpu.session --out $(OUT) $(if $(DRY),--dry) $(if $(ONLY),--only "$(ONLY)") $(if $(RESUME),--resume $(RESUME))

clean:  ## all that was built, .venv too
	rm -rf .venv build *.egg-info fastconv/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find fastconv tests -name __pycache__ -exec rm -rf {} +

.venv/installed: pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "fastconv needs Python 3.11 or newer, and" \
		"$(PYTHON) was not found; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastconv needs Python" \
		" 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another:" \
		" make PYTHON=python3.12")'
	@command -v $(firstword $(CXX)) > /dev/null || { echo "fastconv needs a C++20 compiler, and" \
		"$(firstword $(CXX)) was not found; install g++ or name one: make CXX=clang++"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q pip==$(PIP_VERSION)
	$(BIN)/pip install --group torch
	$(BIN)/pip install --group build --group test --group check
	$(BIN)/pip install --no-deps --group data
	$(BIN)/python setup.py build_ext --inplace
	$(BIN)/pip install --no-build-isolation --no-deps -e .
	@touch $@

# What compiles kernels for a GPU: half a gigabyte that the demo does without.
.venv/toolchains: .venv/installed
	$(BIN)/pip install --group cuda
	$(BIN)/pip install --no-deps --group triton
	@touch $@
