#!/bin/sh
# Cargo's wrapper of rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): what libFuzzer reads, a counter for each edge and the
# operands of comparisons. Dependencies are left as they are, and built once for tests and fuzzing. Stable rustc may be told to run this pass
# of LLVM; only the sanitizers are nightly's. Source: cargo-fuzz, `--sanitizer none`.
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
