"""Tests results.sh on outputs of cargo's test harness that are written for each test, and the table of what layers take:
python3 scripts/lib/results_test.py"""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent

PASSED = """\
     Running unittests src/lib.rs (target/debug/deps/lib-1)

running 2 tests
test a::one ... ok
test a::two ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
"""

# What a test prints may look like the harness's own lists.
FAILED = """\
     Running tests/envoy/main.rs (target/debug/deps/envoy-1)

running 3 tests
test fleet::ends::first ... FAILED
test retries::second ... ok
test retries::third - should panic ... FAILED

failures:

---- fleet::ends::first stdout ----
some words
    no_name_of_a_test

thread 'fleet::ends::first' (71) panicked at tests/envoy/fleet/ends.rs:1:1:
failed; to repeat: SEED=17 cargo test
  left: 1
 right: 2
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
--- Envoy's log
running
---

---- retries::third stdout ----
note: test did not panic as expected

failures:
    fleet::ends::first
    retries::third

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
"""

CUT = """\
     Running tests/scenarios.rs (target/debug/deps/scenarios-1)

running 3 tests
test a::one ... ok
test a::two ... FAILED
error: test failed, to rerun pass `--test scenarios`
"""


def summary(*layers, failures=None):
    """The summary of layers, each with the status and the output of its tests, and whether all have passed."""
    with tempfile.TemporaryDirectory() as folder:
        calls = []
        for number, (layer, status, output) in enumerate(layers):
            log = Path(folder) / str(number)
            log.write_text(output)
            calls.append(f"record_tests {layer} {status} 7 {log}")
        script = "\n".join(
            ["set -euo pipefail", f"source {HERE}/project.sh", f"source {HERE}/results.sh", *calls, "print_summary"]
        )
        environment = {**os.environ}
        environment.pop("FAILURES", None)
        if failures is not None:
            environment["FAILURES"] = str(failures)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
        return done.stdout.replace(folder, "LOGS"), done.returncode == 0


def failed(text):
    """The list of failures in a summary."""
    lines = text.splitlines()
    return [line.strip() for line in lines[lines.index("failed:") + 1 :] if line.startswith("  ")]


class Summary(unittest.TestCase):
    def test_counts_are_the_last_line(self):
        text, is_ok = summary(("native", 0, PASSED))
        self.assertTrue(is_ok)
        self.assertEqual(text.splitlines()[-1], "2 passed, 0 failed")
        self.assertNotIn("failed:", text.splitlines())

    def test_each_failure_is_named_with_its_layer_and_how_to_repeat_it(self):
        text, is_ok = summary(("native", 0, PASSED), ("envoy", 101, FAILED), ("chaos", 101, FAILED))
        self.assertFalse(is_ok)
        self.assertEqual(text.splitlines()[-1], "4 passed, 4 failed")
        names = [
            "to repeat: SEED=17 cargo test",
            "panicked at tests/envoy/fleet/ends.rs:1:1: failed; to repeat: SEED=17 cargo test   left: 1  right: 2",
            "fleet::ends::first",
            "retries::third",
        ]
        self.assertEqual(failed(text), [f"{layer}  {name}" for layer in ["envoy", "chaos"] for name in names])

    def test_the_version_of_envoy_is_named(self):
        text, _ = summary(("versions", 101, f"--- Envoy 1.37.0\n{CUT}--- Envoy 1.39.3\n{FAILED}"))
        self.assertIn("versions  Envoy 1.39.3: retries::third", failed(text))
        self.assertIn("versions  Envoy 1.37.0: a::two", failed(text))

    def test_a_program_that_ends_in_the_middle_is_named(self):
        for output in [CUT, CUT + PASSED]:
            text, is_ok = summary(("native", 101, output))
            self.assertFalse(is_ok)
            names = ["a::two", "tests/scenarios.rs (ended in the middle of its tests)"]
            self.assertEqual(failed(text), [f"native  {name}" for name in names])

    def test_a_layer_that_runs_no_test_is_named(self):
        text, is_ok = summary(("native", 0, "nothing\n"))
        self.assertFalse(is_ok)
        self.assertEqual(failed(text), ["native  ran no test"])
        text, _ = summary(("native", 1, PASSED))
        self.assertEqual(failed(text), ["native  stopped with status 1 before or beside its tests"])

    def test_several_runs_collect_their_failures(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "failures"
            file.write_text("make lint\n")
            summary(("page", 101, FAILED), failures=file)
            text, is_ok = summary(("native", 0, PASSED), failures=file)
        self.assertTrue(is_ok, "this run has none of its own")
        self.assertEqual(text.splitlines()[-1], "2 passed, 0 failed")
        self.assertIn("page  retries::third", failed(text))
        self.assertIn("make lint", failed(text))
        self.assertEqual(len(failed(text)), 5)

    def test_how_long_each_layer_takes_is_known(self):
        script = (HERE.parent / "test").read_text()
        layers = re.findall(r"^(?:layers|others)=\((.*)\)$", script, re.MULTILINE)
        self.assertEqual(len(layers), 2)
        rows = [line.split() for line in (HERE / "seconds.tsv").read_text().splitlines() if not line.startswith("#")]
        self.assertEqual(sorted(row[0] for row in rows), sorted(" ".join(layers).split()))
        self.assertTrue(all(int(row[1]) > 0 for row in rows))


if __name__ == "__main__":
    unittest.main()
