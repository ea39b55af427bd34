// node node.mjs <directory of the verifier> <base URL of the test>
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { drive } from "./driver.mjs";

const [dir, base] = process.argv.slice(2);
await drive(await import(pathToFileURL(join(dir, "exonode.js"))), undefined, base);
