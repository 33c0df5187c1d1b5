# What people and CI call. Each stage of a test run is a target of its own: make stage-clippy

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
LOGS := $(TARGET_DIR)/stages
CARGO := cargo

# A test that needs a privilege or the lab fails without it; nothing passes by skipping.
export LUNAR_REQUIRE_LAB := 1

# Integration tests by name. Those that boot machines run in the stage lab, with their namesakes, all
# others in the stage unit. Every stage selects the whole workspace and then targets: with -p, cargo
# would build the dependencies again with other features.
tests_in = $(basename $(notdir $(wildcard $(1)/*.rs))) \
  $(notdir $(patsubst %/main.rs,%,$(wildcard $(1)/*/main.rs)))
PACKAGING_TESTS := $(sort $(call tests_in,dev-env/packaging/tests))
LAB_TESTS := $(sort $(call tests_in,e2e/tests) $(call tests_in,dev-env/lab/tests))
SIM_TESTS := $(sort $(call tests_in,sim/tests))
UNIT_TESTS := $(sort $(filter-out tree $(LAB_TESTS) $(SIM_TESTS),$(call tests_in,*/tests)))

# Lab tests that mostly wait, for leases and fences to run out: they run beside the others.
WAITING_TESTS := arrays fence_faults migration publications takeover

TEST_STAGES := bootstrap toolchain fmt clippy doc compile tidy unit simulator packaging lab
LONG_STAGES := bootstrap toolchain unit-long simulator-long lab-long

.PHONY: help
help: ## Print this help
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: stage-bootstrap stage-toolchain ## Set up, build, and show the product at work; ends with "demo: ok"
	@$(CARGO) build --release --workspace --bins
	@$(TARGET_DIR)/release/demo

.PHONY: test
test: ## Set up and run every test; non-zero if one failed or could not run
	@$(call run_stages,$(TEST_STAGES))

.PHONY: test-long
test-long: ## More cases, more seeds, the lab three times with more cuts, kills and moments
	@$(call run_stages,$(LONG_STAGES))

.PHONY: crash-sweep
crash-sweep: stage-toolchain ## Recover every crash state of short sequences: a million and more
	@$(CARGO) build --release --workspace --bin sim
	@$(TARGET_DIR)/release/sim crash-sweep

.PHONY: bench-recovery
bench-recovery: stage-toolchain ## Measure how long I/O stands still when fs-core is killed
	@$(CARGO) build --release --workspace --bins
	@$(TARGET_DIR)/release/bench-recovery

.PHONY: lint
lint: stage-toolchain stage-fmt stage-clippy stage-doc stage-tidy ## Check format, lints, documentation and the tree

.PHONY: build
build: stage-toolchain ## Build the programs: lunar, fs-core, metadata-service, lab
	@$(CARGO) build --release --workspace --bins

.PHONY: fence-soak
fence-soak: stage-toolchain ## Lose nodes in the lab, CYCLES (20) times in each of five ways
	@$(CARGO) build --release --workspace --bins
	@$(TARGET_DIR)/release/fence-soak --cycles $(or $(CYCLES),20)

.PHONY: csi-sanity
csi-sanity: stage-toolchain ## Run the conformance suite of CSI against the driver in the lab; needs Go
	@LUNAR_REQUIRE_GO=1 scripts/csi-sanity.sh $(TARGET_DIR)/tools
	@$(CARGO) build --release --workspace --bins --tests
	@LUNAR_REQUIRE_GO=1 $(CARGO) test --release --workspace --test csi_sanity -- --nocapture

.PHONY: images
images: build ## Build the images of the programs with Docker or, with DOCKER=podman, another
	@dev-env/docker/images.sh $(TARGET_DIR)/release

.PHONY: kind-up
kind-up: images ## Make a cluster of three nodes in kind, with Lunar on two files
	@PATH="$(abspath $(TARGET_DIR))/release:$$PATH" dev-env/kind/up.sh

.PHONY: kind-demo
kind-demo: ## Write to a volume of each kind in that cluster; ends with "demo: ok"
	@PATH="$(abspath $(TARGET_DIR))/release:$$PATH" dev-env/kind/demo.sh

.PHONY: kind-down
kind-down: ## Take that cluster away, claims first
	@dev-env/kind/down.sh

.PHONY: doc
doc: stage-toolchain ## Build the API documentation
	@$(CARGO) doc --release --workspace --no-deps --document-private-items

.PHONY: clean
clean: ## Remove what was built here; the cache of lab images stays
	@$(CARGO) clean

# ---- stages

.PHONY: stage-bootstrap stage-toolchain stage-fmt stage-clippy stage-doc
stage-bootstrap:
	@scripts/bootstrap.sh

stage-toolchain:
	@command -v $(CARGO) >/dev/null || { \
	  echo "cargo is not on PATH. Install a Rust toolchain of at least 1.92 with rustup" >&2; \
	  echo "(Debian 13: apt-get install rustup && rustup default stable), open a new shell" >&2; \
	  echo "so that ~/.cargo/bin is on PATH (under sudo: sudo env PATH=\$$PATH make …)." >&2; \
	  exit 1; }
	@$(CARGO) --version

stage-fmt:
	@$(CARGO) fmt --all --check

stage-clippy:
	@$(CARGO) clippy --release --workspace --all-targets -- -D warnings

stage-doc:
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps

.PHONY: stage-compile stage-tidy stage-unit stage-simulator stage-packaging stage-lab
stage-compile:
	@$(CARGO) build --release --workspace --bins --tests

stage-tidy:
	@$(CARGO) test --release --workspace --test tree

stage-unit:
	@$(CARGO) test --release --workspace --no-fail-fast --lib --bins $(UNIT_TESTS:%=--test %)
	@$(CARGO) test --release --workspace --doc

# A thousand fixed seeds, and the planted bugs that they have to find.
stage-simulator:
	@$(CARGO) test --release --workspace --no-fail-fast $(SIM_TESTS:%=--test %)

# The chart, the manifests and the images; Helm is built with the Go that is here.
stage-packaging:
	@$(CARGO) test --release --workspace --no-fail-fast $(PACKAGING_TESTS:%=--test %)

# Two lanes: what a test of the one waits for leaves the processors to the other.
lab_tests = $(CARGO) test --release --workspace --no-fail-fast $(1:%=--test %) -- --test-threads=1
stage-lab: stage-compile
	@scripts/csi-sanity.sh $(TARGET_DIR)/tools
	@mkdir -p $(LOGS); \
	  $(call lab_tests,$(filter $(WAITING_TESTS),$(LAB_TESTS))) >$(LOGS)/lab-waiting.out 2>&1 & \
	  waiting=$$!; failed=0; \
	  $(call lab_tests,$(filter-out $(WAITING_TESTS),$(LAB_TESTS))) || failed=1; \
	  wait $$waiting || failed=1; cat $(LOGS)/lab-waiting.out; exit $$failed

.PHONY: stage-unit-long stage-simulator-long stage-lab-long
stage-unit-long:
	@PROPTEST_CASES=20000 $(MAKE) stage-unit

stage-simulator-long: stage-compile
	@$(TARGET_DIR)/release/sim --seeds 0..50000 --keep-going

stage-lab-long:
	@for run in 1 2 3; do \
	  LUNAR_POWER_CUTS=20 LUNAR_KILLS=60 LUNAR_KILL_SEED=$$run LUNAR_LOG_MOMENTS=40 \
	    LUNAR_LOG_SEED=$$run LUNAR_FENCE_CYCLES=7 $(MAKE) stage-lab || exit 1; \
	done
	@$(MAKE) bench-recovery

# Runs stages in order, each with a log; a stage that fails does not hide the later ones, but
# without packages or a toolchain none of them can run. A stage of tests that ran no test failed.
# Ends with what ran and how long it took.
define run_stages
mkdir -p $(LOGS); rm -f $(LOGS)/*.log; failed=0; blocked=0; table=; \
for stage in $(1); do \
  began=$$SECONDS; \
  if [ $$blocked = 1 ]; then result="not run"; else \
    echo "==== $$stage"; result=ok; \
    $(MAKE) stage-$$stage </dev/null 2>&1 | tee $(LOGS)/$$stage.log || result=FAILED; \
  fi; \
  case "$$result:$$stage" in FAILED:bootstrap|FAILED:toolchain) blocked=1;; esac; \
  tests=$$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' \
    $(LOGS)/$$stage.log 2>/dev/null | awk '{p+=$$1; f+=$$2} END {if (NR) print p+f " tests"}'); \
  case "$$result:$$stage:$$tests" in \
    ok:tidy:|ok:unit*:|ok:simulator:|ok:lab*:|ok:*:"0 tests") result="FAILED";; esac; \
  [ "$$result" = ok ] || failed=1; \
  table+=$$(printf '%-15s %-8s %5ds  %s' "$$stage" "$$result" $$((SECONDS-began)) "$$tests")$$'\n'; \
done; \
echo; echo "==== summary after $$((SECONDS/60)) min $$((SECONDS%60)) s (logs in $(LOGS))"; \
printf '%s' "$$table"; \
cat $(LOGS)/*.log | awk '/^test result: / {p+=$$4; f+=$$6; s+=$$8} \
  END {printf "%d passed, %d failed, %d skipped\n", p, f, s}'; \
if [ $$failed = 0 ]; then echo "test: ok"; else echo "test: FAILED"; fi; exit $$failed
endef
