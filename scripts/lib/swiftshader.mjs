/**
 * SwiftShader without root: a Vulkan driver that runs on the processor, with a Vulkan loader beside it, taken out of
 * an npm package that ships it for headless browsers. 68 MB to fetch once, 7 MB kept. Linux on x86-64 only.
 */
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { brotliDecompressSync, gunzipSync } from "node:zlib"
import { npm, SetupError, say, state, withTemporary } from "./common.mjs"

const pack = "@sparticuz/chromium@147.0.0"
/** SHA-512 of the tarball, so that a changed file is refused before anything of it is used. */
const digest = "4ZKeAQQa8up2mt675qSitztLdbQrlf8BKdC5naeap+5Mv1OV1OlJdPoU+EJC/p5sQUJUQmN4r+q5+EhaaOUHpQ=="
const wanted = ["libvk_swiftshader.so", "libvulkan.so.1", "vk_swiftshader_icd.json"]

export const swiftshaderFolder = (folder = state) => join(folder, "swiftshader")

export const swiftshaderPresent = (folder = state) =>
  wanted.every((name) => existsSync(join(swiftshaderFolder(folder), name)))

/** The files of a tar archive as `[path, bytes]`; directories, links and long-name extensions are passed over. */
export const untar = function* (archive) {
  const text = (start, length) => archive.toString("utf8", start, start + length).replace(/\0.*$/s, "")
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0; ) {
    const size = Number.parseInt(text(at + 124, 12).trim(), 8)
    if (!Number.isInteger(size) || at + 512 + size > archive.length)
      throw new SetupError("the downloaded archive is damaged: run the set-up again.")
    const prefix = text(at + 345, 155)
    const type = archive[at + 156]
    if (type === 0x30 || type === 0)
      yield [prefix === "" ? text(at, 100) : `${prefix}/${text(at, 100)}`, archive.subarray(at + 512, at + 512 + size)]
    at += 512 + Math.ceil(size / 512) * 512
  }
}

/** Fetches and unpacks SwiftShader into `.srcode/swiftshader`; the folder appears whole or not at all. */
export const installSwiftshader = () => {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new SetupError(
      `SwiftShader is only packaged for Linux on x86-64, and this is ${process.platform}-${process.arch}.`
    )
  say(`setup: fetching SwiftShader out of the npm package ${pack} (68 MB once, 7 MB kept in .srcode/swiftshader)`)
  withTemporary((temporary) => {
    const answer = npm(
      [
        "pack",
        pack,
        "--pack-destination",
        temporary,
        "--loglevel=error",
        "--fetch-retries=1",
        "--fetch-timeout=120000"
      ],
      {
        cwd: temporary,
        timeout: 600_000
      }
    )
    if (answer.status !== 0)
      throw new SetupError(
        `"npm pack ${pack}" failed: ${answer.stderr.trim().split("\n")[0] || `exit code ${answer.status}`}`
      )
    const tarball = readFileSync(join(temporary, basename(answer.stdout.trim().split("\n").at(-1) ?? "")))
    if (createHash("sha512").update(tarball).digest("base64") !== digest)
      throw new SetupError(`${pack} is not the file this project knows (its checksum differs): nothing was unpacked.`)
    const inner = [...untar(gunzipSync(tarball))].find(([path]) => path === "package/bin/swiftshader.tar.br")
    if (inner === undefined) throw new SetupError(`${pack} has no bin/swiftshader.tar.br.`)
    const target = swiftshaderFolder()
    const half = `${target}.${process.pid}`
    rmSync(half, { recursive: true, force: true })
    mkdirSync(half, { recursive: true })
    for (const [path, bytes] of untar(brotliDecompressSync(inner[1]))) {
      if (wanted.includes(basename(path))) writeFileSync(join(half, basename(path)), bytes, { mode: 0o755 })
    }
    rmSync(target, { recursive: true, force: true })
    renameSync(half, target)
  })
  if (!swiftshaderPresent()) throw new SetupError(`${pack} did not hold ${wanted.join(", ")}.`)
}
