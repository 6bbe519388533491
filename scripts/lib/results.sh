# shellcheck shell=bash
# Sourced after project.sh: reads what cargo's test harness printed and keeps the account of layers.
#
# A layer cannot pass by silence: one that fails without a failed test, ends in the middle of a test
# binary or runs no test at all counts as a failure.

summary=()
total_passed=0 total_failed=0 total_ignored=0

# count_results LOG : prints "PASSED FAILED IGNORED UNFINISHED", summed over the test binaries in LOG.
# UNFINISHED counts those that announced their tests and never gave a result.
count_results() {
  sed "s/$(printf '\033')\[[0-9;]*m//g" "$1" | awk '
    /^running [0-9]+ tests?$/ { announced++ }
    /^test result: / {
      results++
      for (i = 2; i <= NF; i++) {
        if ($i == "passed;") passed += $(i - 1)
        if ($i == "failed;") failed += $(i - 1)
        if ($i == "ignored;") ignored += $(i - 1)
      }
    }
    END {
      unfinished = announced > results ? announced - results : 0
      print passed + 0, failed + 0, ignored + 0, unfinished
    }'
}

# record_tests LAYER STATUS SECONDS LOG : a layer that runs tests.
record_tests() {
  local passed failed ignored unfinished note=
  read -r passed failed ignored unfinished < <(count_results "$4")
  if [ "$unfinished" -gt 0 ]; then
    failed=$((failed + unfinished)) note="ended in the middle of a test binary"
  elif [ "$2" -ne 0 ] && [ "$failed" -eq 0 ]; then
    failed=1 note="stopped with status $2 before or beside its tests"
  elif [ $((passed + failed)) -eq 0 ]; then
    failed=1 note="ran no test"
  fi
  record "$1" "$passed" "$failed" "$ignored" "$3" "$note"
}

# record_step LAYER STATUS SECONDS : a layer that only prepares; it counts when it fails.
record_step() {
  local failed=0 note=
  [ "$2" -eq 0 ] || failed=1 note="stopped with status $2"
  record "$1" 0 "$failed" 0 "$3" "$note"
}

record() {
  total_passed=$((total_passed + $2))
  total_failed=$((total_failed + $3))
  total_ignored=$((total_ignored + $4))
  summary+=("$(printf '%-10s %8s %8s %8s %8s  %s' "$@")")
}

# print_summary : the table, and last the line that scripts and people read. Fails if a test failed.
print_summary() {
  local line="$total_passed passed, $total_failed failed"
  [ "$total_ignored" -eq 0 ] || line="$line, $total_ignored skipped"
  say "" "$(printf '%-10s %8s %8s %8s %8s' layer passed failed ignored seconds)"
  printf '%s\n' "${summary[@]}" | sed 's/ *$//'
  say "" "$line"
  [ "$total_failed" -eq 0 ]
}
