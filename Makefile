# make setup | check | test | demo | bench-cluster | bench-gossip | bench-raft | bench-keys | sim | sim-raft | sim-rotation | chaos-raft | hitless | attack | kills | fuzz    (Debian 12, root)

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:

BIN := .venv/bin
PACKAGES := ca-certificates iproute2 iptables iputils-ping kmod nftables python3 python3-venv tcpdump user-mode-linux
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
RUN_KERNEL := $(BIN)/swarmnet lab kernel --
export DEBIAN_FRONTEND := noninteractive

.PHONY: help setup check test test-host test-kernel demo bench-cluster bench-gossip bench-raft bench-keys sim sim-raft sim-rotation chaos-raft hitless attack kills fuzz proto clean

help:
	@echo 'make demo           the main job, shown in a lab on this machine'
	echo 'make test           every test; the ones marked "kernel" in a kernel with ESP'
	echo 'make test-host      only those for any kernel;   make test-kernel   only those that need ESP'
	echo '                    ARGS="tests/kernel/test_x.py -k name" chooses'
	echo 'make check          ruff, mypy, import-linter, stubs current'
	echo 'make bench-cluster  the figures of a cluster, JSON lines'
	echo 'make bench-raft     Raft beside etcd, JSON lines;   ARGS=--quick   in a minute'
	echo 'make bench-gossip   gossip beside memberlist, which it installs, JSON lines;   ARGS=--quick, or "--only update --nodes 50"'
	echo 'make bench-keys     rotations of 1,000 scopes on 200 workers, and a key to 1,000, JSON lines'
	echo 'make sim-raft       SEEDS=10000 clusters of managers under faults, in memory;   SEED=7 tells that story'
	echo 'make sim-rotation   SEEDS=2000 stories of key rotations under faults, in memory;   SEED=7 tells that one'
	echo 'make sim            SEEDS=1000 NODES=25  clusters of gossip under faults, in memory;   SEED=7 tells that story'
	echo 'make fuzz           SECONDS=600   of hostile bytes for each parser of gossip;   SEED=7'
	echo 'make chaos-raft     MINUTES=10 SEED=7   managers as processes under random faults, histories checked'
	echo 'make hitless        ROTATIONS=1000 SEED=1   keys rotate under streams and faults: nothing may be lost; JSON lines'
	echo 'make attack         COUNT=50   packets of each sort of attack on the data path: nothing may be delivered or leak; JSON lines'
	echo 'make kills          KILLS=200 SEED=1   SIGKILL for a data path in the middle of changes: nothing lost or left; JSON lines'
	echo 'make setup          what all of these need: Debian packages, .venv'

# --- setup: each step leaves a stamp and is done again only when its input changed
# Bytecode beforehand: a lab starts many processes at once, and in user-mode-linux compiling is slow.
setup: .venv/.synced
	@$(BIN)/python -m compileall -q proto core client manager worker cli

.venv/.packages: Makefile
	@missing=$$(for package in $(PACKAGES); do
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done)
	if [ -n "$$missing" ]; then apt-get update -qq; apt-get install -y -qq --no-install-recommends $$missing; fi
	[ -x $(BIN)/python ] || python3 -m venv .venv
	touch $@

.venv/.uv: .venv/.packages
	@[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

.venv/.synced: .venv/.uv pyproject.toml uv.lock
	@$(BIN)/uv sync --frozen --quiet --compile-bytecode
	touch $@

# --- quality
check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check

test: setup
	@mkdir -p out
	status=0
	$(MAKE) --no-print-directory test-kernel >out/test-kernel.txt 2>&1 & kernel=$$!   # has one CPU; the others are free
	$(MAKE) --no-print-directory test-host | tee out/test-host.txt || status=1
	wait $$kernel || status=1
	cat out/test-kernel.txt
	echo "any kernel: $$(tail -n 1 out/test-host.txt)"
	echo "ESP kernel: $$(tail -n 1 out/test-kernel.txt)"
	exit $$status

test-host: setup
	@temporary=$$(mktemp -d /tmp/tests-XXXXXX)   # not shared with another run; kept when a test failed
	$(PYTEST) -m "not kernel" --basetemp=$$temporary/t $(ARGS)
	rm -rf $$temporary

test-kernel: setup
	@$(RUN_KERNEL) $(PYTEST) -m kernel $(ARGS)

# --- the product
demo: setup
	@$(BIN)/swarmnet demo

bench-cluster: setup
	@$(BIN)/python -m bench.cluster $(ARGS)

bench-gossip: setup
	@packages="golang-go golang-github-hashicorp-memberlist-dev"
	dpkg-query -W -f='$${Status}\n' $$packages 2>/dev/null | grep -c 'ok installed' | grep -qx 2 ||
	  { apt-get update -qq; apt-get install -y -qq --no-install-recommends $$packages; }
	GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$(CURDIR)/out/go-cache go build -o out/bench-memberlist ./bench/memberlist
	$(BIN)/python -m bench.gossip $(ARGS)

bench-raft: setup
	@command -v etcd >/dev/null || { apt-get update -qq; apt-get install -y -qq --no-install-recommends etcd-server; }
	$(BIN)/python -m bench.raft $(ARGS)

sim: setup
	@$(BIN)/python -m tests.sim.gossip_runner --nodes $(or $(NODES),25) \
	  $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

fuzz: setup
	@export FUZZ_SECONDS=$(or $(SECONDS),600) FUZZ_SEED=$(or $(SEED),1)
	$(PYTEST) -o timeout=0 tests/fuzz $(ARGS)

bench-keys: setup
	@$(BIN)/python -m bench.keys $(ARGS)

sim-raft: setup
	@$(BIN)/python -m tests.sim.raft_runner $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000))

sim-rotation: setup
	@$(BIN)/python -m tests.sim.rotation_stories $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),2000))

chaos-raft: setup
	@$(BIN)/python -m tests.chaos.run --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) $(ARGS)

hitless: setup
	@$(BIN)/python -m tests.hitless.run --rotations $(or $(ROTATIONS),1000) --seed $(or $(SEED),1) $(ARGS)

attack: setup
	@$(RUN_KERNEL) $(BIN)/python -m tests.attack.run --count $(or $(COUNT),50) $(ARGS)

kills: setup
	@$(RUN_KERNEL) $(BIN)/python -m tests.kills.run --kills $(or $(KILLS),200) --seed $(or $(SEED),1) $(ARGS)

proto: setup
	$(BIN)/python proto/generate.py

clean:
	rm -rf out .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
