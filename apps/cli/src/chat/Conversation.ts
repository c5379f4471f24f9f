/**
 * A conversation that is kept within a context: the system message, and the messages that still fit with the answer to
 * come. The oldest go first, up to the next message of the user, since templates want a user to begin.
 */
import type { ChatMessage } from "@srcode/model"
import { Effect } from "effect"

export interface Conversation {
  readonly system: string | null
  /** Without the system message; users and assistants in turn. */
  readonly messages: ReadonlyArray<ChatMessage>
  /** How many of the first messages are left out. */
  readonly leftOut: number
}

export const newConversation = (system: string | null): Conversation => ({ system, messages: [], leftOut: 0 })

export const withMessage = (conversation: Conversation, message: ChatMessage): Conversation => ({
  ...conversation,
  messages: [...conversation.messages, message]
})

/** The messages that the template renders. */
const rendered = ({ system, messages, leftOut }: Conversation): ReadonlyArray<ChatMessage> => [
  ...(system === null ? [] : [{ role: "system" as const, content: system }]),
  ...messages.slice(leftOut)
]

/** The conversation without its oldest exchange, or undefined when only the last message of the user is left. */
const shortened = (conversation: Conversation): Conversation | undefined => {
  const next = conversation.messages.findIndex(({ role }, i) => i > conversation.leftOut && role === "user")
  return next < 0 ? undefined : { ...conversation, leftOut: next }
}

export interface Fitted {
  readonly conversation: Conversation
  readonly ids: ReadonlyArray<number>
}

/**
 * The longest end of the conversation whose tokens leave `room` of the context's `limit`. When not even the last message
 * does, it is given back as long as it is: `ids.length + room > limit` tells.
 */
export const fitConversation = <E>(
  conversation: Conversation,
  encode: (messages: ReadonlyArray<ChatMessage>) => Effect.Effect<ReadonlyArray<number>, E>,
  options: { readonly limit: number; readonly room: number }
): Effect.Effect<Fitted, E> =>
  Effect.flatMap(encode(rendered(conversation)), (ids) => {
    const shorter = ids.length + options.room > options.limit ? shortened(conversation) : undefined
    return shorter === undefined ? Effect.succeed({ conversation, ids }) : fitConversation(shorter, encode, options)
  })
