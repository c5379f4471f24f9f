/** The embedded base model that ships with this package: about half a million parameters, trained by `srcode pretrain`. */
import { fileURLToPath } from "node:url"

/** Its Hugging Face folder. */
export const tinyCoderDirectory: string = fileURLToPath(new URL("../assets/tiny-coder", import.meta.url))
