// Runs a WebAssembly program in Node's WASI: `node wasi.mjs PROGRAM ARGUMENT...`. Cargo starts the tests with it.
//
// Nothing of the machine is handed in: no folder, no environment. A panic ends the program, so the tests after the one
// that fails do not run.
import { readFile } from 'node:fs/promises';
import { WASI } from 'node:wasi';

const TRAPPED = 101; // as a native test harness ends after a failure

const args = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args, returnOnExit: true });
const program = await WebAssembly.compile(await readFile(args[0]));
const instance = await WebAssembly.instantiate(program, wasi.getImportObject());
try {
  process.exitCode = wasi.start(instance);
} catch (trap) {
  if (!(trap instanceof WebAssembly.RuntimeError)) throw trap;
  console.error(`the program ended with a trap: ${trap.message}`);
  process.exitCode = TRAPPED;
}
