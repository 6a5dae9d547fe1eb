# The two commands of the README are `make demo` and `make test`. One cargo profile everywhere (release), so a clean
# clone compiles its dependencies once.

CARGO ?= cargo
# The profile's folder; scripts find the binary there.
TARGET := $(or $(CARGO_TARGET_DIR),target)/release
# A word for each part between spaces. The allocator's configure script takes no path with any.
BUILT_IN := $(if $(filter /%,$(firstword $(CARGO_TARGET_DIR))),,$(CURDIR)/)$(or $(CARGO_TARGET_DIR),target)
ifneq ($(words $(BUILT_IN)),1)
$(error There is a space in the path "$(BUILT_IN)", and jemalloc cannot be built there: clone to a path without one, or set CARGO_TARGET_DIR to a folder that has none)
endif

.PHONY: demo test faults fuzz bench bench-http bench-features bench-reliability check tools

demo: ## the whole engine on this machine, with live traffic; Ctrl-C ends it, DEMO_SECONDS=20 ends it by itself
	$(CARGO) build --locked --release --package keyloom-engine --bin keyloom
	KEYLOOM_BIN="$(TARGET)/keyloom" scripts/demo.sh

test: tools check ## everything, against real servers
	scripts/test.sh

faults: tools ## the engine killed and cut off hundreds of times, then audited; KEYLOOM_FAULT_KILLS, KEYLOOM_FAULT_SEED
	scripts/faults.sh

fuzz: ## ten million hostile inputs for every decoder; KEYLOOM_FUZZ_INPUTS, KEYLOOM_FUZZ_SEED
	scripts/fuzz.sh

bench: tools ## the whole job against its limits, and what the HTTP faces can do
	$(CARGO) build --locked --release --package keyloom-engine --bin keyloom
	. .tools/env.sh && $(CARGO) run --locked --release --package keyloom-benches --bin bench
	$(CARGO) run --locked --release --package keyloom-benches --bin bench-http

bench-http: tools ## events in, features out, and from one to the other, over HTTP
	$(CARGO) build --locked --release --package keyloom-engine --bin keyloom
	$(CARGO) run --locked --release --package keyloom-benches --bin bench-http

bench-features: ## what declared features cost per event and per answer, on one core
	$(CARGO) run --locked --release --package keyloom-benches --bin bench-features

bench-reliability: tools ## what outages, checkpoints and kills cost, beside their limits; takes a quarter of an hour
	$(CARGO) build --locked --release --package keyloom-engine --bin keyloom
	$(CARGO) run --locked --release --package keyloom-benches --bin bench-reliability

check: ## style only
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets -- -D warnings

tools: ## what the tests need beside Rust, into ./.tools
	scripts/tools.sh
