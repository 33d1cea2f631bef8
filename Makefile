# The few verbs of wharf. Meson and Ninja do the work; `make` on its own builds into build/ what users need of it.
# Each verb installs what it takes, makes the build folder fit what is installed, and builds what it runs and no more.
B ?= build
PREFIX ?= /usr/local
BUILD = scripts/configure $(B) && ninja -C $(B) --quiet

all: deps
	@$(BUILD) use

deps:
	@scripts/deps build

test-deps:
	@scripts/deps test

proof-deps:
	@scripts/deps proof

demo: deps
	@$(BUILD) wharfd examples/wordcount
	@scripts/demo $(B) $(ARGS)

test: test-deps
	@$(BUILD) meson-test-prereq
	@scripts/test $(B) $(ARGS)

check: deps
	@scripts/check $(ARGS)

bench:
	@scripts/deps bench
	@$(BUILD) benches wharf wharfd
	@scripts/bench $(B) $(ARGS)

# Everything the engines of proof/ can do; `proof/quick` is the short version. Then: do they notice broken code?
proof: proof-deps
	@$(BUILD)
	@proof/run full $(B)

proof-mutants: proof-deps
	@$(BUILD)
	@proof/mutants/run $(B) $(ARGS)

# Both for PREFIX, whatever the folder was made for; DESTDIR comes before it.
install: deps
	@scripts/install $(B) $(PREFIX)

uninstall: deps
	@scripts/install --remove $(B) $(PREFIX)

format:
	@git ls-files -z '*.c' '*.h' | xargs -0 clang-format -i

hooks:
	@git config core.hooksPath scripts/hooks

clean:
	@rm -rf $(B)

.PHONY: all deps test-deps proof-deps demo test check bench proof proof-mutants install uninstall format hooks clean
