# The few verbs of wharf. Meson and Ninja do the work; `make` on its own builds into build/.
B ?= build
PREFIX ?= /usr/local

all: $(B)/build.ninja
	@ninja -C $(B) --quiet

$(B)/build.ninja:
	@meson setup $(B) --prefix=$(PREFIX) >/dev/null || { meson setup $(B) --prefix=$(PREFIX); exit 1; }

deps:
	@scripts/deps build

# A build that was configured before they were there is configured again.
proof-deps: deps
	@scripts/deps proof
	@[ ! -f $(B)/build.ninja ] || [ -e $(B)/proof/fuzz/fuzz_frame ] || meson setup --reconfigure $(B) >/dev/null

demo: deps all
	@scripts/demo $(B) $(ARGS)

test: proof-deps all
	@scripts/test $(B) $(ARGS)

check: deps all
	@scripts/check $(ARGS)

bench: all
	@scripts/deps bench
	@meson setup --reconfigure $(B) >/dev/null; ninja -C $(B) --quiet
	@scripts/bench $(B) $(ARGS)

# Everything the engines of proof/ can do; `proof/quick` is the short version. Then: do they notice broken code?
proof: proof-deps all
	@proof/run full $(B)

proof-mutants: proof-deps all
	@proof/mutants/run $(B) $(ARGS)

install: all
	@meson install -C $(B) --no-rebuild

format:
	@git ls-files -z '*.c' '*.h' | xargs -0 clang-format -i

hooks:
	@git config core.hooksPath scripts/hooks

clean:
	@rm -rf $(B)

.PHONY: all deps proof-deps demo test check bench proof proof-mutants install format hooks clean
