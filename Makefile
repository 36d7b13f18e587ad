# Sets up what it needs, then does what it is asked. `make` alone lists the targets.
# Needs: git, make, a C++ compiler, Python 3.10 to 3.13 with its venv module and headers.

PYTHON ?= python3
REFERENCE := out/reference-asymmetric-int4
BUNDLE ?= $(REFERENCE)
FLIGHT := out/flight
FRAMES ?= 60
MINUTES ?= 30

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A virtual environment is made anew when the Python, the sourced ROS or what is to be installed changes.
KEY := $(shell { cat setup.py ros2_ws/build-requirements.txt; $(PYTHON) -VV; echo "$(ROS_DISTRO)"; } | sha256sum | cut -c1-16)
# The first also when operators in C++ change: they are compiled beside their sources, for all environments.
VENV := .venv/.made-$(KEY)-$(shell cat edge_runtime/backends/native/*pp | sha256sum | cut -c1-16)
PEERS_VENV := .venv-peers/.made-$(KEY)
PARITY_VENV := .venv-parity/.made-$(KEY)
RTX_VENV := .venv-rtx/.made-$(KEY)
JETSON_VENV := .venv-jetson/.made-$(KEY)
ROS := .venv/.ros-$(KEY)
JETSON := .venv/.jetson-$(KEY)

# Runs a command with the ROS 2 messages importable, or plainly where this machine can have no ROS.
WITH_ROS = $$(grep -qx ready $(ROS) && echo ros2_ws/run)

# The camera of a demo without ROS: a folder of rendered frames.
RENDER = import cv2; from engines.reference.flight import render_flight; \
	[cv2.imwrite(f"out/frames/{index:04}.jpg", frame) for index, frame in enumerate(render_flight(1, $(FRAMES)))]

.DELETE_ON_ERROR:
.PHONY: help demo test lint bench bench-peers parity engines soak fuzz prove-13b prove-on-jetson clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(ROS) $(BUNDLE)/bundle.json ## fly the reference inspector past a rendered bridge; BUNDLE=... another; writes out/flight.html
	@rm -f $(FLIGHT).jsonl
	@if grep -qx ready $(ROS); then \
		ros2_ws/run .venv/bin/python -m inspection_ros.demo $(BUNDLE) --frames $(FRAMES) --out $(FLIGHT); \
	else \
		echo "demo: no ROS 2 on this machine (see above), so reports go to this terminal and not to topics"; \
		mkdir -p out/frames && .venv/bin/python -c '$(RENDER)' && \
		.venv/bin/edge-runtime stream $(BUNDLE) out/frames --page $(FLIGHT).html; \
	fi

test: $(ROS) $(JETSON) ## run the tests
	@$(WITH_ROS) .venv/bin/python -m pytest
	@! grep -qx ready $(JETSON) || tests/simulated_jetson/run .venv/bin/python -m pytest -m simulated_jetson

lint: $(VENV) ## check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: $(PARITY_VENV) $(BUNDLE)/bundle.json ## compare the speed with transformers, in one run
	.venv-parity/bin/python -m benchmarks.bench_report $(BUNDLE)

bench-peers: $(VENV) $(PEERS_VENV) ## compare a 7B with llama.cpp, onnxruntime-genai and transformers; PEERS="--layers 4" is quick
	.venv-peers/bin/python -m benchmarks.bench_peers $(PEERS)

parity: $(PARITY_VENV) ## compare with transformers on torch, and make the golden arrays anew
	.venv-parity/bin/python -m pytest -m parity --timeout=1800 tests/engines tests/parity
	.venv-parity/bin/python -m tests.parity.make_golden
	.venv-parity/bin/python -m pytest tests/engines/families/test_golden.py

ifeq ($(shell uname -sm),Linux x86_64)
engines: $(RTX_VENV) ## compile every graph with TensorRT for RTX, which needs no GPU
	@$(MAKE) --no-print-directory -j2 -Otarget every-recipe every-component-of-13b

.PHONY: every-recipe every-component-of-13b
every-recipe: ; .venv-rtx/bin/python -m pytest tests/engines/targets/test_tensorrt_rtx.py
every-component-of-13b: ; .venv-rtx/bin/python -m pytest -m slow --timeout=1800 tests/engines/targets/test_tensorrt_rtx.py
else
engines:
	@echo "engines: nothing was compiled, as NVIDIA has no TensorRT for RTX for $(shell uname -sm)"
endif

soak: $(ROS) $(BUNDLE)/bundle.json ## fly a camera of 1920x1080 at 30 frames a second for MINUTES; DAMAGED=1 harms one frame in 20
	ros2_ws/run .venv/bin/python -m tests.ros2_ws.soak $(BUNDLE) --minutes $(MINUTES) $(if $(DAMAGED),--damaged)

fuzz: $(ROS) ## read thousands of pictures, messages, bags and recordings that are harmed at random
	@$(WITH_ROS) .venv/bin/python -m pytest -m slow --timeout=1800 \
		tests/edge_runtime/vision/test_image_decoding.py tests/edge_runtime/ros/test_messages_fuzz.py \
		tests/edge_runtime/stream/test_bags.py tests/ros2_ws/test_recorder.py

prove-13b: $(VENV) ## build a 13B and report on IMAGE within 10.4 GB; takes 9 GB of disk, and up to 90 minutes
	.venv/bin/python -m benchmarks.prove_13b $(if $(IMAGE),--image "$(IMAGE)")

prove-on-jetson: $(JETSON_VENV) ## on a Jetson: show what only hardware can; BUNDLE=... measures your own bundle too
	BUNDLE="$(filter-out $(REFERENCE),$(BUNDLE))" \
		.venv-jetson/bin/python -m pytest -m jetson --timeout=3600 tests/simulated_jetson tests/jetson

clean: ## remove what was built; the virtual environments stay
	rm -rf build out .venv/.ros-* .venv/.jetson-* *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis ros2_ws/build ros2_ws/install ros2_ws/log
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# Messages of these ROS versions are compiled against NumPy 1.
$(VENV): | check-python
	@echo "installing the project and what it needs into .venv; a minute or two, once"
	@rm -rf .venv
	$(PYTHON) -m venv $(if $(ROS_DISTRO),--system-site-packages) .venv
	.venv/bin/pip install -qq --editable '.[build,dev]' $(if $(filter humble jazzy,$(ROS_DISTRO)),'numpy<2')
	@command -v cmake >/dev/null || .venv/bin/pip install -qq cmake
	@touch $@

# Exit code 69 says that there can be no ROS here, which is no error: everything else works without.
$(ROS): $(VENV) $(shell find ros2_ws/src/inspection_msgs ros2_ws/setup_ros.py -type f 2>/dev/null)
	@.venv/bin/python ros2_ws/setup_ros.py; code=$$?; \
	case $$code in 0) echo ready ;; 69) echo unavailable ;; *) exit $$code ;; esac >$@

# TensorRT's half of the tests; exit code 69 says that there is no C compiler to build it with.
$(JETSON): $(VENV) $(wildcard tests/simulated_jetson/libcuda/* tests/simulated_jetson/setup_jetson.py)
	@.venv/bin/python tests/simulated_jetson/setup_jetson.py; code=$$?; \
	case $$code in 0) echo ready ;; 69) echo unavailable ;; *) exit $$code ;; esac >$@

$(PARITY_VENV): | check-python
	@echo "installing torch and transformers into .venv-parity; minutes, once"
	@rm -rf .venv-parity
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/pip install -qq --editable '.[build,dev,parity]'
	@touch $@

# GCC 12 drops the stores that set up AMX's tiles in llama.cpp, which then crashes at its first prompt. A wheel in pip's
# cache may have been compiled so.
$(PEERS_VENV): | check-python
	@echo "compiling llama.cpp and installing it and other peers into .venv-peers; a quarter of an hour, once"
	@rm -rf .venv-peers
	$(PYTHON) -m venv .venv-peers
	CMAKE_ARGS='-DCMAKE_CXX_FLAGS="-fno-tree-dse -fno-dse"' \
		.venv-peers/bin/pip install -qq --no-cache-dir --editable '.[build,peers]'
	@touch $@

$(RTX_VENV): | check-python
	@echo "installing TensorRT for RTX into .venv-rtx; minutes, once"
	@rm -rf .venv-rtx
	$(PYTHON) -m venv .venv-rtx
	.venv-rtx/bin/pip install -qq --editable '.[build,dev,tensorrt-rtx]'
	@touch $@

# TensorRT comes with JetPack, outside of any virtual environment; pycuda is compiled against JetPack's CUDA.
$(JETSON_VENV): | check-python
	@echo "compiling pycuda and installing the project into .venv-jetson; minutes, once"
	@rm -rf .venv-jetson
	$(PYTHON) -m venv --system-site-packages .venv-jetson
	PATH=/usr/local/cuda/bin:$$PATH .venv-jetson/bin/pip install -qq --editable '.[build,dev,jetson]'
	@touch $@

$(REFERENCE)/bundle.json: $(VENV) $(shell find engines -type f -not -name '*.pyc')
	@.venv/bin/edge-engines build engines/reference/checkpoint --recipe asymmetric-int4 --target onnxruntime --out $(REFERENCE) --force

%/bundle.json:
	@echo "there is no bundle $*; .venv/bin/edge-engines build --help says how to make one" >&2; exit 1

.PHONY: check-python
check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null || \
		{ echo "$(PYTHON) is not Python 3.10 to 3.13; name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments; install it: sudo apt install python3-venv" >&2; exit 1; }
