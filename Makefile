# make demo    where "it" looks, in a real model's attention
# make test    the tests, against a naive reference in Double
# make help    the rest

.DEFAULT_GOAL := help
.PHONY: help setup demo test runner compare docs format lint

SOURCES := Package.swift Sources Tests Benchmarks
TEST_FLAGS := -c release --disable-testable-imports --disable-xctest

# Homebrew keeps OpenBLAS and LAPACK out of the default search path.
ifeq ($(shell uname -s),Darwin)
export PKG_CONFIG_PATH := $(shell brew --prefix 2>/dev/null)/opt/openblas/lib/pkgconfig:$(shell brew --prefix 2>/dev/null)/opt/lapack/lib/pkgconfig:$(PKG_CONFIG_PATH)
endif

help: ## show these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: OpenBLAS, LAPACKE, pkg-config (apt-get or brew)
	@.ci/setup

demo: setup ## draw where "it" looks in a sentence, through a trained layer of all-MiniLM-L6-v2
	@swift build -c release --product attend
	@"$$(swift build -c release --show-bin-path)/attend" map Examples/Data/minilm-layer0.safetensors --token it

test: setup ## run the tests
	swift test $(TEST_FLAGS)

runner: setup ## build the benchmark runner; its path is the last line
	@swift build -c release --product attention-runner
	@echo "$$(swift build -c release --show-bin-path)/attention-runner"

compare: runner ## alternate with PyTorch, which is set up in Benchmarks/.venv
	@Benchmarks/compare --runner "$$(swift build -c release --show-bin-path)/attention-runner" $(ARGUMENTS)

docs: setup ## build the documentation, without a warning, into .build-docs/html
	ATTENTION_DOCC=1 swift package --scratch-path .build-docs --allow-writing-to-directory .build-docs \
	  generate-documentation --target AttentionTensors --target AttentionBLAS --target Attention --target AttentionFiles \
	  --enable-experimental-combined-documentation --output-path .build-docs/html --warnings-as-errors

format: ## rewrite the sources as .swift-format says
	swift format --in-place --parallel --recursive $(SOURCES)

lint: ## complain where the sources are not as .swift-format says
	swift format lint --strict --parallel --recursive $(SOURCES)
