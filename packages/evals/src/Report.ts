/**
 * `report.html`: one run on one page. Self-contained: no script, no font, no image and no link to anywhere, so it can be
 * mailed or archived and shows the same in ten years. Everything that came from a model or a file is escaped.
 *
 * Contract: pure; same input, same bytes.
 */
import type { EvalResult, Rollout, RunManifest, SampleOutcome } from "@srcode/domain"
import { escapeHtml, pre, short, table } from "./internal/html.ts"
import { barChart, lineChart, type Series } from "./internal/svg.ts"
import { armLabel, formatRate } from "./ResultsTable.ts"

/** One line of metrics.jsonl: `stage`, `step`, and values by the field's names. */
export type MetricRecord = { readonly stage: string; readonly step: number } & Readonly<
  Record<string, string | number | boolean | null>
>

export interface ReportRollout {
  readonly rollout: Rollout
  /** The text of each response token, in order; concatenated they are the response. */
  readonly pieces: ReadonlyArray<string>
}

export interface ReportInput {
  readonly title: string
  readonly manifest: RunManifest | null
  readonly results: ReadonlyArray<EvalResult>
  readonly metrics: ReadonlyArray<MetricRecord>
  readonly rollouts: ReadonlyArray<ReportRollout>
  readonly samples: ReadonlyArray<{ readonly arm: string; readonly outcome: SampleOutcome }>
  /** Lines shown under the title: what was measured how, and what was left out. */
  readonly notes: ReadonlyArray<string>
}

const style = `:root{color-scheme:light dark;--line:#8884;--ink:CanvasText}
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:var(--ink);background:Canvas}
h1{font-size:1.6em}h2{margin-top:2em;font-size:1.2em;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;font-size:.9em}td,th{border-bottom:1px solid var(--line);padding:.3em .7em;text-align:left;vertical-align:top}
.wide{overflow-x:auto}pre{margin:0;font:12.5px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.charts{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;flex:1 1 320px;max-width:100%}figcaption{font-weight:600;font-size:.9em}
svg{width:100%;height:auto}svg text{font-size:11px;fill:var(--ink)}.grid{stroke:var(--line)}.whisker{stroke:var(--ink);fill:none;stroke-width:1.5}
.line{fill:none;stroke-width:1.6}.legend{margin:.1em 0;font-size:.8em}.legend i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .6em}
.ok{color:#00754f}.bad{color:#b33c00}@media(prefers-color-scheme:dark){.ok{color:#3fc799}.bad{color:#ff8a57}}
details{margin:.6em 0}summary{cursor:pointer}dt{font-weight:600}dd{margin:0 0 .4em 1em;overflow-wrap:anywhere}`

/** The charts in reading order: title and which metric names belong to it. The first match takes a name. */
const panels: ReadonlyArray<readonly [string, RegExp]> = [
  ["Loss", /loss/i],
  ["KL", /kl/i],
  ["Entropy", /entropy/i],
  ["Length", /length|len\b|tokens?_per/i],
  ["Reward channels", /reward|score|positive|negative|channel|verdict|return|advantage/i],
  ["Optimisation", /lr|learning_rate|clip|grad|ratio|value|policy/i],
  ["Other", /./]
]

const numberOrNull = (value: unknown): number | null =>
  typeof value === "number" && Number.isFinite(value) ? value : null

const trainingCharts = (metrics: ReadonlyArray<MetricRecord>): string => {
  const stages = [...new Set(metrics.map((line) => line.stage))]
  const names = [...new Set(metrics.flatMap((line) => Object.keys(line)))].filter(
    (name) => name !== "stage" && name !== "step" && metrics.some((line) => numberOrNull(line[name]) !== null)
  )
  const left = new Set(names)
  return panels
    .map(([title, pattern]) => {
      const mine = [...left].filter((name) => pattern.test(name))
      for (const name of mine) left.delete(name)
      const charts = mine.map((name) => {
        const series = stages.flatMap((stage): ReadonlyArray<Series> => {
          const points = metrics
            .filter((line) => line.stage === stage && name in line)
            .map((line) => [line.step, numberOrNull(line[name])] as const)
          return points.length === 0 ? [] : [{ name: stage, points }]
        })
        return lineChart(name, series)
      })
      const drawn = charts.filter((chart) => chart !== "")
      return drawn.length === 0 ? "" : `<h3>${title}</h3><div class="charts">${drawn.join("\n")}</div>`
    })
    .filter((panel) => panel !== "")
    .join("\n")
}

const resultSections = (results: ReadonlyArray<EvalResult>): string =>
  [...new Set(results.map((result) => result.benchmark))]
    .map((benchmark) => {
      const mine = results.filter((result) => result.benchmark === benchmark)
      const metrics = [...new Set(mine.flatMap((result) => Object.keys(result.rates)))]
      const groups = metrics
        .filter((metric) => /functional|secure|FS@|rate/i.test(metric) && !/^heldOut\/(?!FS@)/.test(metric))
        .map((metric) => ({
          name: metric,
          bars: mine.map((result) => {
            const rate = result.rates[metric] ?? { k: 0, n: 0, rate: 0, low: 0, high: 1 }
            return {
              label: armLabel(result.arm),
              value: rate.rate,
              low: rate.low,
              high: rate.high,
              note: formatRate(rate)
            }
          })
        }))
      const rows = mine.map((result) => [
        escapeHtml(armLabel(result.arm)),
        ...metrics.map((metric) => {
          const rate = result.rates[metric]
          return rate === undefined ? "-" : escapeHtml(formatRate(rate))
        }),
        escapeHtml(`${result.seeds.join(", ")}; T ${result.sampling.temperature}, top-p ${result.sampling.topP}`)
      ])
      return (
        `<h3>${escapeHtml(benchmark)}</h3>${barChart(`${benchmark}: share of samples, 95 % Wilson intervals`, groups)}` +
        table(["model", ...metrics, "seeds, sampling"], rows)
      )
    })
    .join("\n")

/** Background of one token: blue for what was earned, orange for what was taken, as strong as its share of the largest. */
const tokenSpan = (piece: string, index: number, rollout: Rollout, largest: number): string => {
  const { positive, negative, rewardModel, kl } = rollout.channels
  const sum = (positive[index] ?? 0) + (negative[index] ?? 0)
  const title = `r+ ${short(positive[index] ?? 0)}  r- ${short(negative[index] ?? 0)}  rm ${short(rewardModel[index] ?? 0)}  kl ${short(kl[index] ?? 0)}`
  const strength = largest === 0 ? 0 : Math.round((0.12 + (0.6 * Math.abs(sum)) / largest) * 100) / 100
  const background = sum === 0 ? "" : ` style="background:rgba(${sum > 0 ? "0,114,178" : "213,94,0"},${strength})"`
  return `<span title="${title}"${background}>${escapeHtml(piece)}</span>`
}

const rolloutBlock = ({ rollout, pieces }: ReportRollout): string => {
  const { positive, negative } = rollout.channels
  const largest = positive.reduce((most, value, index) => Math.max(most, Math.abs(value + (negative[index] ?? 0))), 0)
  const total = (values: ReadonlyArray<number>) => short(values.reduce((sum, value) => sum + value, 0))
  const severities = rollout.severities === null ? "no signal" : rollout.severities.join(", ") || "no finding"
  const head = `step ${rollout.step}, ${rollout.taskId}: ${severities}; r+ ${total(positive)}, r- ${total(negative)}, reward model ${short(rollout.rewardModel)}${rollout.truncated ? ", cut by length" : ""}`
  const body = pieces.map((piece, index) => tokenSpan(piece, index, rollout, largest)).join("")
  return `<details open><summary>${escapeHtml(head)}</summary>${pre(rollout.prompt)}<pre>${body}</pre></details>`
}

const mark = (ok: boolean): string => `<span class="${ok ? "ok" : "bad"}">${ok ? "yes" : "no"}</span>`

const sampleTable = (samples: ReportInput["samples"]): string =>
  table(
    ["model", "task", "prompt and response", "compiles", "functional", "secure", "what failed"],
    samples.map(({ arm, outcome }) => [
      escapeHtml(armLabel(arm)),
      escapeHtml(outcome.taskId),
      `<details><summary>${escapeHtml(outcome.prompt.split("\n")[0]?.slice(0, 80) ?? "")}</summary>${pre(`${outcome.prompt}\n${outcome.response}`)}</details>`,
      mark(outcome.compiles),
      mark(outcome.functional),
      mark(outcome.secure),
      escapeHtml(outcome.detail)
    ])
  )

const manifestBlock = (manifest: RunManifest): string => {
  const pairs = (record: Readonly<Record<string, string>>) =>
    Object.entries(record)
      .map(([key, value]) => `${key} ${value}`)
      .join("\n")
  const entries: ReadonlyArray<readonly [string, string]> = [
    ["name", manifest.name],
    ["started", manifest.startedAt],
    ["seed", String(manifest.seed)],
    ["device", `${manifest.device.name} (${manifest.device.backend}${manifest.device.software ? ", software" : ""})`],
    ["git commit", manifest.gitCommit ?? "unknown"],
    ["versions", pairs(manifest.versions)],
    ["inputs (SHA-256)", pairs(manifest.inputs)],
    ["configuration", JSON.stringify(manifest.config, null, 2)]
  ]
  return `<dl>${entries.map(([key, value]) => `<dt>${escapeHtml(key)}</dt><dd>${pre(value)}</dd>`).join("\n")}</dl>`
}

const section = (title: string, body: string): string =>
  body === "" ? "" : `<section><h2>${title}</h2>\n${body}\n</section>\n`

/** The whole page. Sections without content are left out. */
export const renderReport = (input: ReportInput): string => {
  const body =
    section("Results", resultSections(input.results)) +
    section("Training", trainingCharts(input.metrics)) +
    section(
      "Token rewards",
      input.rollouts.length === 0
        ? ""
        : `<p>Blue earned, orange lost; the strength is relative to the largest token of the response.</p>${input.rollouts.map(rolloutBlock).join("\n")}`
    ) +
    section("Samples", input.samples.length === 0 ? "" : sampleTable(input.samples)) +
    section("Run", input.manifest === null ? "" : manifestBlock(input.manifest))
  const notes = input.notes.map((note) => `<p>${escapeHtml(note)}</p>`).join("\n")
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>${escapeHtml(input.title)}</title><style>${style}</style></head>
<body><h1>${escapeHtml(input.title)}</h1>
${notes}
${body}</body></html>
`
}
