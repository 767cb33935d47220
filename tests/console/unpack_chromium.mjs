// Prints, as JSON, where the browser from npm was unpacked to: below TMPDIR, with the libraries it needs beside it.
import { tmpdir } from "node:os";
import { join } from "node:path";

process.env.AWS_LAMBDA_JS_RUNTIME ??= "nodejs22.x"; // the package unpacks its libraries only for this name
const { default: chromium } = await import("@sparticuz/chromium");
console.log(JSON.stringify({ path: await chromium.executablePath(), libraries: join(tmpdir(), "al2023/lib") }));
