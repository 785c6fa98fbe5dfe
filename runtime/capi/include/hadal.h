/*
 * Hadal: DeepSeek-V3 models inside other programs. Made by cbindgen; do not edit.
 *
 * Status. Functions that can fail return a HadalStatus, 0 if it worked, and where their last
 * argument `error` is not NULL they put a HadalError there, to be freed by hadal_error_free.
 * What an out-argument points to is written only when it worked. NULL handles are errors, not
 * crashes; a pointer that was freed is the caller's mistake. Nothing here prints, exits,
 * installs a handler (but hadal_survive_lost_pages) or lets a panic out.
 *
 * Ownership. Each handle is the caller's and is freed once, by the function of its kind, in any
 * order: a session keeps its engine, an engine its model. Freeing NULL does nothing. Strings
 * that are given out as `char *` are freed by hadal_string_free, `const char *` belong to what
 * they were asked of. Arguments are copied; none has to outlive its call.
 *
 * Threads. Every function may be called from any thread, and any handle from several at once,
 * except that nobody may use a handle while it is freed. Callbacks run on the thread that
 * called, before the function returns; they may call anything, also free the handles that the
 * function was called with: it goes on with its own. They must return: no exception, longjmp or
 * end of the thread may leave one. After fork() a child may only exec or exit.
 *
 * Growth. Structs that begin with `size` grow at their end: set it to sizeof the struct and
 * everything else to zero, which means the default. Others never change.
 *
 * Text is UTF-8 and ends in a zero byte.
 */

#ifndef HADAL_H
#define HADAL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/**
 * Whether it worked. Numbers are never reused; later libraries may give others.
 */
enum HadalStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It worked.
     */
    HADAL_STATUS_OK = 0,
    /**
     * The request or the load was cancelled.
     */
    HADAL_STATUS_CANCELLED = 1,
    /**
     * An argument or option that cannot be; NULL where something is needed.
     */
    HADAL_STATUS_INVALID_ARGUMENT = 2,
    /**
     * A file is missing or cannot be read.
     */
    HADAL_STATUS_FILE = 3,
    /**
     * A file was read and is damaged, or files do not belong together.
     */
    HADAL_STATUS_DAMAGED_MODEL = 4,
    /**
     * A model that is not supported.
     */
    HADAL_STATUS_UNSUPPORTED_MODEL = 5,
    /**
     * The model has no tokenizer or no chat template, and the request needs one.
     */
    HADAL_STATUS_NO_TEXT = 6,
    /**
     * The model does not fit the memory; hadal_error_plan says what would.
     */
    HADAL_STATUS_WOULD_NOT_FIT = 7,
    /**
     * The memory budget, or memory itself, has no room for this.
     */
    HADAL_STATUS_OUT_OF_MEMORY = 8,
    /**
     * There is no such device, or it cannot be used here.
     */
    HADAL_STATUS_NO_DEVICE = 9,
    /**
     * The device was lost and could not be had again.
     */
    HADAL_STATUS_DEVICE_LOST = 10,
    /**
     * The session's context is full.
     */
    HADAL_STATUS_CONTEXT_FULL = 11,
    /**
     * The session writes an answer already.
     */
    HADAL_STATUS_BUSY = 12,
    /**
     * The library was built without it.
     */
    HADAL_STATUS_NOT_BUILT = 13,
    /**
     * A mistake in this library.
     */
    HADAL_STATUS_INTERNAL = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum HadalStatus HadalStatus;
#else
typedef int32_t HadalStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a HadalEvent tells.
 */
enum HadalEventKind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Prompt tokens read: `done`, `total`.
     */
    HADAL_EVENT_KIND_PROMPT = 1,
    /**
     * More text: `text`, `tokens`, `reasoning`.
     */
    HADAL_EVENT_KIND_TEXT = 2,
    /**
     * Drafts so far: `drafted`, `accepted`.
     */
    HADAL_EVENT_KIND_DRAFTS = 3,
    /**
     * Experts asked in a step: `routes`.
     */
    HADAL_EVENT_KIND_ROUTES = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum HadalEventKind HadalEventKind;
#else
typedef uint32_t HadalEventKind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why an answer ended.
 */
enum HadalFinish
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The model ended its text.
     */
    HADAL_FINISH_END = 1,
    /**
     * A stop string.
     */
    HADAL_FINISH_STOP = 2,
    /**
     * `max_tokens`.
     */
    HADAL_FINISH_LENGTH = 3,
    /**
     * The context is full.
     */
    HADAL_FINISH_CONTEXT = 4,
    /**
     * The callback or hadal_session_cancel.
     */
    HADAL_FINISH_CANCELLED = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum HadalFinish HadalFinish;
#else
typedef uint32_t HadalFinish;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a device is.
 */
enum HadalDeviceKind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * A backend without a device; `why` says why.
     */
    HADAL_DEVICE_KIND_ABSENT = 0,
    /**
     * The processor.
     */
    HADAL_DEVICE_KIND_CPU = 1,
    /**
     * A GPU with memory of its own.
     */
    HADAL_DEVICE_KIND_DISCRETE_GPU = 2,
    /**
     * A GPU that uses the processor's memory.
     */
    HADAL_DEVICE_KIND_INTEGRATED_GPU = 3,
    /**
     * A GPU of a virtual machine.
     */
    HADAL_DEVICE_KIND_VIRTUAL_GPU = 4,
    /**
     * A processor that stands for a GPU.
     */
    HADAL_DEVICE_KIND_SOFTWARE = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum HadalDeviceKind HadalDeviceKind;
#else
typedef uint32_t HadalDeviceKind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A list of devices.
 */
typedef struct HadalDevices HadalDevices;

/**
 * A model on a device.
 */
typedef struct HadalEngine HadalEngine;

/**
 * What did not work.
 */
typedef struct HadalError HadalError;

/**
 * An opened model.
 */
typedef struct HadalModel HadalModel;

/**
 * A sequence of tokens with its cache.
 */
typedef struct HadalSession HadalSession;

/**
 * A device, or a backend that has none.
 */
typedef struct {
    /**
     * sizeof(HadalDevice).
     */
    size_t size;
    /**
     * A HadalDeviceKind.
     */
    uint32_t kind;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Name of the backend.
     */
    const char *backend;
    /**
     * What hadal_load is given; NULL where there is no device.
     */
    const char *id;
    /**
     * The vendor's name; NULL where there is no device.
     */
    const char *name;
    /**
     * The driver; NULL where there is no device.
     */
    const char *driver;
    /**
     * Bytes of memory that it tells of; 0 where it tells none.
     */
    uint64_t memory_bytes;
    /**
     * Why there is no device; NULL where there is one.
     */
    const char *why;
} HadalDevice;

/**
 * A model's files in memory: either `gguf`, or `config_json` and `safetensors`.
 */
typedef struct {
    /**
     * sizeof(HadalModelBytes).
     */
    size_t size;
    /**
     * What people call it; may be NULL.
     */
    const char *name;
    /**
     * A GGUF file.
     */
    const uint8_t *gguf;
    /**
     * Its bytes.
     */
    size_t gguf_len;
    /**
     * Text of config.json.
     */
    const char *config_json;
    /**
     * A safetensors file.
     */
    const uint8_t *safetensors;
    /**
     * Its bytes.
     */
    size_t safetensors_len;
    /**
     * Text of tokenizer.json; NULL: only token ids can be given.
     */
    const char *tokenizer_json;
    /**
     * Text of tokenizer_config.json; may be NULL.
     */
    const char *tokenizer_config_json;
} HadalModelBytes;

/**
 * Called while a model is loaded with bytes done and in all; other than 0 stops the load.
 */
typedef int32_t (*HadalOnProgress)(void *user, uint64_t done, uint64_t total);

/**
 * How a model is put on a device. All zeros suit nearly everyone.
 */
typedef struct {
    /**
     * sizeof(HadalLoadOptions).
     */
    size_t size;
    /**
     * Which device: "host", "wgpu:1"; several together: "cuda:0+cuda:1", "cuda:all"; NULL for
     * the best.
     */
    const char *device;
    /**
     * Tokens a session holds; 0: what fits, up to 16,384.
     */
    uint32_t context;
    /**
     * Threads of the host, the caller's included; 0: one a core.
     */
    uint32_t threads;
    /**
     * Most tokens of a step; 0: 512.
     */
    uint32_t chunk;
    /**
     * Other than 0: leave room for others from the beginning.
     */
    uint32_t low_priority;
    /**
     * Bytes of the host's memory that may be used; 0: what there is.
     */
    uint64_t host_budget;
    /**
     * Bytes of a device's own memory that may be used, of several together of each; 0: what there
     * is.
     */
    uint64_t device_budget;
    /**
     * Longest dispatch on devices other than the host, in milliseconds; 0: 100.
     */
    uint32_t dispatch_budget_ms;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Told how far the load is; may be NULL. Not used by hadal_plan.
     */
    HadalOnProgress on_progress;
    /**
     * Given to `on_progress`.
     */
    void *user;
} HadalLoadOptions;

/**
 * Whether a model fits a device, in numbers.
 */
typedef struct {
    /**
     * sizeof(HadalPlan).
     */
    size_t size;
    /**
     * 1 if all of it fits.
     */
    uint32_t fits;
    /**
     * Tokens a session gets.
     */
    uint32_t context;
    /**
     * The longest context that fits; 0: none.
     */
    uint32_t longest_context;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Bytes that must be found.
     */
    uint64_t needed_bytes;
    /**
     * Bytes that may be used; UINT64_MAX where nobody tells.
     */
    uint64_t available_bytes;
    /**
     * Bytes of weights.
     */
    uint64_t weight_bytes;
    /**
     * Bytes of a session's cache.
     */
    uint64_t cache_bytes;
} HadalPlan;

/**
 * What an engine holds.
 */
typedef struct {
    /**
     * sizeof(HadalMemory).
     */
    size_t size;
    /**
     * Bytes that may be used; UINT64_MAX: as many as there are.
     */
    uint64_t budget_bytes;
    /**
     * Bytes of weights, tables and the temporaries of the largest step.
     */
    uint64_t fixed_bytes;
    /**
     * Bytes of the sessions' caches.
     */
    uint64_t session_bytes;
    /**
     * Bytes beyond the budget.
     */
    uint64_t over_bytes;
    /**
     * Sessions.
     */
    uint32_t sessions;
    /**
     * Zero.
     */
    uint32_t reserved;
} HadalMemory;

/**
 * How a session works.
 */
typedef struct {
    /**
     * sizeof(HadalSessionOptions).
     */
    size_t size;
    /**
     * Other than 0: the next-token module does not draft.
     */
    uint32_t no_drafts;
    /**
     * Zero.
     */
    uint32_t reserved;
} HadalSessionOptions;

/**
 * A message of a conversation. Never changes.
 */
typedef struct {
    /**
     * "system", "user", "assistant" or "tool".
     */
    const char *role;
    /**
     * What was said.
     */
    const char *content;
} HadalMessage;

/**
 * How tokens are chosen.
 */
typedef struct {
    /**
     * sizeof(HadalSampling).
     */
    size_t size;
    /**
     * 0 is greedy; 0 to 100.
     */
    float temperature;
    /**
     * Probability mass kept, up to 1; 0 means 1, all.
     */
    float top_p;
    /**
     * Smallest probability kept, relative to the largest; 0 keeps all.
     */
    float min_p;
    /**
     * Tokens kept; 0 keeps all.
     */
    uint32_t top_k;
    /**
     * Up to 100; 0 means 1, none.
     */
    float repetition_penalty;
    /**
     * -100 to 100.
     */
    float presence_penalty;
    /**
     * -100 to 100.
     */
    float frequency_penalty;
    /**
     * Zero.
     */
    uint32_t reserved;
} HadalSampling;

/**
 * A prompt, one of the first four kinds, and how to continue it.
 */
typedef struct {
    /**
     * sizeof(HadalRequest).
     */
    size_t size;
    /**
     * Text after what the session has.
     */
    const char *text;
    /**
     * Token ids after what the session has.
     */
    const uint32_t *ids;
    /**
     * How many.
     */
    size_t ids_len;
    /**
     * A whole conversation, through the model's chat template.
     */
    const HadalMessage *messages;
    /**
     * How many.
     */
    size_t messages_len;
    /**
     * The same as JSON: a list of objects.
     */
    const char *messages_json;
    /**
     * Most tokens of output; 0: as many as the context holds.
     */
    uint64_t max_tokens;
    /**
     * How tokens are chosen; NULL: as the model's publisher recommends.
     */
    const HadalSampling *sampling;
    /**
     * Seed.
     */
    uint64_t seed;
    /**
     * Strings that end the output; they are not part of it.
     */
    const char *const *stop;
    /**
     * How many.
     */
    size_t stop_len;
    /**
     * Other than 0: go on after an end-of-text token.
     */
    uint32_t ignore_end;
    /**
     * Whether the model reasons first, where its template lets one choose: 0 as it likes, 1
     * yes, 2 no.
     */
    uint32_t thinking;
    /**
     * Other than 0: log probabilities with each token.
     */
    uint32_t logprobs;
    /**
     * How many of the likeliest tokens come with them.
     */
    uint32_t top_logprobs;
    /**
     * Other than 0: tell which experts each layer asked.
     */
    uint32_t watch_experts;
    /**
     * Zero.
     */
    uint32_t reserved;
} HadalRequest;

/**
 * A token and its log probability. Never changes.
 */
typedef struct {
    /**
     * The token.
     */
    uint32_t id;
    /**
     * Natural logarithm of its probability.
     */
    float logprob;
} HadalLogprob;

/**
 * An output token. Never changes.
 */
typedef struct {
    /**
     * Its id.
     */
    uint32_t id;
    /**
     * Its log probability; NaN if not asked for.
     */
    float logprob;
    /**
     * The likeliest tokens, likeliest first.
     */
    const HadalLogprob *top;
    /**
     * How many.
     */
    size_t top_len;
} HadalToken;

/**
 * The experts that a layer asked for a token. Never changes.
 */
typedef struct {
    /**
     * The layer, dense ones counted.
     */
    uint32_t layer;
    /**
     * Position of the token in the sequence.
     */
    uint32_t position;
    /**
     * The token.
     */
    uint32_t token;
    /**
     * How many experts.
     */
    uint32_t experts_len;
    /**
     * The experts.
     */
    const uint32_t *experts;
    /**
     * The weight of each.
     */
    const float *weights;
} HadalRoute;

/**
 * Something to show. It and all it points to live until the callback returns.
 */
typedef struct {
    /**
     * Bytes of it that this library fills.
     */
    size_t size;
    /**
     * A HadalEventKind; others are to be ignored.
     */
    uint32_t kind;
    /**
     * 1 for text that is reasoning and not answer.
     */
    uint32_t reasoning;
    /**
     * Prompt tokens read.
     */
    uint64_t done;
    /**
     * Prompt tokens in all.
     */
    uint64_t total;
    /**
     * Whole characters; ends in a zero byte.
     */
    const char *text;
    /**
     * Its bytes without that.
     */
    size_t text_len;
    /**
     * Tokens that completed it.
     */
    const HadalToken *tokens;
    /**
     * How many.
     */
    size_t tokens_len;
    /**
     * Drafts so far.
     */
    uint64_t drafted;
    /**
     * Those that became output.
     */
    uint64_t accepted;
    /**
     * Experts asked, by token and layer.
     */
    const HadalRoute *routes;
    /**
     * How many.
     */
    size_t routes_len;
} HadalEvent;

/**
 * Called for each event; other than 0 ends the answer as cancelled.
 */
typedef int32_t (*HadalOnEvent)(void *user, const HadalEvent *event);

/**
 * Figures of an answer.
 */
typedef struct {
    /**
     * sizeof(HadalGenerated).
     */
    size_t size;
    /**
     * A HadalFinish.
     */
    uint32_t finish;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Tokens of the prompt that were read.
     */
    uint64_t prompt_tokens;
    /**
     * Tokens of output, an end-of-text token included.
     */
    uint64_t output_tokens;
    /**
     * Nanoseconds to the first token.
     */
    uint64_t first_token_ns;
    /**
     * Nanoseconds from the first token to the last.
     */
    uint64_t decode_ns;
    /**
     * Steps of the main model after the first token.
     */
    uint64_t steps;
    /**
     * Drafts.
     */
    uint64_t drafted;
    /**
     * Those that became output.
     */
    uint64_t accepted;
} HadalGenerated;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The number of an error; HADAL_STATUS_OK for NULL.
 */
HadalStatus hadal_error_status(const HadalError *error);

/**
 * What happened, a sentence; lives as long as the error. NULL for NULL.
 */
const char *hadal_error_message(const HadalError *error);

/**
 * What a person can do about it, a sentence; lives as long as the error. NULL for NULL.
 */
const char *hadal_error_cure(const HadalError *error);

/**
 * The plan of a model that does not fit, as JSON, to be freed by hadal_string_free; NULL for
 * other errors.
 */
char *hadal_error_plan(const HadalError *error);

/**
 * Frees an error; NULL is allowed.
 */
void hadal_error_free(HadalError *error);

/**
 * The name of a status for logs: "would_not_fit"; "unknown" for a number that is none.
 */
const char *hadal_status_name(int32_t status);

/**
 * Lists the devices of every backend of this build, and the backends that have none. Touches
 * drivers and may take a moment. To be freed by hadal_devices_free.
 */
HadalStatus hadal_devices(HadalDevices **devices, HadalError **error);

/**
 * Entries of a list; 0 for NULL.
 */
size_t hadal_devices_len(const HadalDevices *devices);

/**
 * Describes entry `index`, counted from 0. Its texts belong to the list.
 */
HadalStatus hadal_devices_get(const HadalDevices *devices,
                              size_t index,
                              HadalDevice *device,
                              HadalError **error);

/**
 * Frees a list; NULL is allowed.
 */
void hadal_devices_free(HadalDevices *devices);

/**
 * Version of the library: "1.2.3". Lives for ever.
 */
const char *hadal_version(void);

/**
 * Version of this interface. A library of a greater one does everything that is described
 * here; 1 is the first.
 */
uint32_t hadal_abi_version(void);

/**
 * 1 if the library has the feature, else 0: "tiny" (a model inside), or the name of a backend
 * ("host", "wgpu").
 */
int32_t hadal_has_feature(const char *name);

/**
 * From now on a model's file that is cut short, or lies on a disk that fails, is
 * HADAL_STATUS_DAMAGED_MODEL of the call that needed it, and no longer the end of the process.
 * Installs a handler of SIGBUS for the whole process; signals that are not about models go to the
 * handler that was there before. Does nothing where there is no such signal.
 */
HadalStatus hadal_survive_lost_pages(HadalError **error);

/**
 * Frees a text that was given out as `char *`; NULL is allowed.
 */
void hadal_string_free(char *text);

/**
 * Opens the folder of a model (config.json, tokenizer.json, safetensors files) or a GGUF
 * file. Its files must not change while the model is used. To be freed by hadal_model_free.
 */
HadalStatus hadal_model_open(const char *path, HadalModel **model, HadalError **error);

/**
 * Opens the small model that is part of the library. To be freed by hadal_model_free.
 */
HadalStatus hadal_model_shipped(HadalModel **model, HadalError **error);

/**
 * Opens a model whose files are in memory. They are copied; large ones are better opened by
 * path. To be freed by hadal_model_free.
 */
HadalStatus hadal_model_from_bytes(const HadalModelBytes *bytes,
                                   HadalModel **model,
                                   HadalError **error);

/**
 * Frees a model; NULL is allowed. Engines of it go on.
 */
void hadal_model_free(HadalModel *model);

/**
 * What people call a model; lives as long as the handle. NULL for NULL.
 */
const char *hadal_model_name(const HadalModel *model);

/**
 * The longest context that a model allows, in tokens; 0 for NULL.
 */
uint32_t hadal_model_max_context(const HadalModel *model);

/**
 * 1 if messages can be given: there is a tokenizer and a chat template. Else 0.
 */
int32_t hadal_model_can_chat(const HadalModel *model);

/**
 * The token ids of a text, without the one that begins texts. Writes the first `capacity` of
 * them to `ids`, which may be NULL if that is 0, and their number to `len`.
 */
HadalStatus hadal_model_tokenize(const HadalModel *model,
                                 const char *text,
                                 uint32_t *ids,
                                 size_t capacity,
                                 size_t *len,
                                 HadalError **error);

/**
 * Where everything of a model would lie and whether it fits, before anything is allocated.
 * That it does not fit is no failure: `plan->fits` says it. `json`, if not NULL, gets all of
 * it, what would fit instead too, to be freed by hadal_string_free. `plan` may be NULL, and so
 * may `options`.
 */
HadalStatus hadal_plan(const HadalModel *model,
                       const HadalLoadOptions *options,
                       HadalPlan *plan,
                       char **json,
                       HadalError **error);

/**
 * Puts a model on a device and waits until it is there; `on_progress` of the options may stop
 * it. The engine keeps the model. `options` may be NULL. To be freed by hadal_engine_free.
 */
HadalStatus hadal_load(const HadalModel *model,
                       const HadalLoadOptions *options,
                       HadalEngine **engine,
                       HadalError **error);

/**
 * Frees an engine; NULL is allowed. Its sessions go on; its memory goes with the last of them.
 */
void hadal_engine_free(HadalEngine *engine);

/**
 * Tokens a session of an engine holds; 0 for NULL.
 */
uint32_t hadal_engine_context(const HadalEngine *engine);

/**
 * The device an engine is on ("wgpu:0"), another one after a loss; to be freed by
 * hadal_string_free. NULL for NULL.
 */
char *hadal_engine_device(const HadalEngine *engine);

/**
 * How often an engine's device was lost and opened again; 0 for NULL.
 */
uint32_t hadal_engine_losses(const HadalEngine *engine);

/**
 * Lets running answers finish their step and then sleep, until hadal_engine_resume. Returns
 * at once.
 */
HadalStatus hadal_engine_pause(const HadalEngine *engine, HadalError **error);

/**
 * Ends a pause.
 */
HadalStatus hadal_engine_resume(const HadalEngine *engine, HadalError **error);

/**
 * 1 from hadal_engine_pause to hadal_engine_resume, else 0.
 */
int32_t hadal_engine_is_paused(const HadalEngine *engine);

/**
 * Leaves room for others (`low` other than 0) or no longer. Waits for the step that runs.
 */
HadalStatus hadal_engine_set_low_priority(const HadalEngine *engine,
                                          int32_t low,
                                          HadalError **error);

/**
 * Changes how many bytes an engine may hold; UINT64_MAX: as many as there are. What exists
 * goes on, new sessions are refused; `memory`, which may be NULL, says by how much it is over.
 */
HadalStatus hadal_engine_set_budget(const HadalEngine *engine,
                                    uint64_t bytes,
                                    HadalMemory *memory,
                                    HadalError **error);

/**
 * What an engine holds.
 */
HadalStatus hadal_engine_memory(const HadalEngine *engine, HadalMemory *memory, HadalError **error);

/**
 * Gives back what the next step makes again: scratch and prepared programs. Waits for the
 * step that runs.
 */
HadalStatus hadal_engine_trim(const HadalEngine *engine, HadalError **error);

/**
 * Begins an empty session; it keeps the engine. `options` may be NULL. To be freed by
 * hadal_session_free.
 */
HadalStatus hadal_session_new(const HadalEngine *engine,
                              const HadalSessionOptions *options,
                              HadalSession **session,
                              HadalError **error);

/**
 * Frees a session; NULL is allowed. No other thread may be using it: cancel its answer and
 * wait for hadal_generate to return first. The callback of hadal_generate may free it; the answer
 * goes on.
 */
void hadal_session_free(HadalSession *session);

/**
 * Ends the answer that another thread is writing, after the step that runs, and at once where
 * the engine is paused. Returns at once; does nothing where there is none.
 */
HadalStatus hadal_session_cancel(const HadalSession *session, HadalError **error);

/**
 * Forgets everything; the memory stays.
 */
HadalStatus hadal_session_clear(const HadalSession *session, HadalError **error);

/**
 * Keeps the first `count` tokens.
 */
HadalStatus hadal_session_truncate(const HadalSession *session, size_t count, HadalError **error);

/**
 * Another session with the same tokens; nothing is computed again. To be freed by
 * hadal_session_free.
 */
HadalStatus hadal_session_fork(const HadalSession *session,
                               HadalSession **fork,
                               HadalError **error);

/**
 * The tokens of a session. Writes the first `capacity` of them to `ids`, which may be NULL if
 * that is 0, and their number to `len`.
 */
HadalStatus hadal_session_tokens(const HadalSession *session,
                                 uint32_t *ids,
                                 size_t capacity,
                                 size_t *len,
                                 HadalError **error);

/**
 * Writes an answer on this thread and tells of it while it does; returns when it is over.
 * `on_event` may be NULL, and so may `generated`, which gets the figures. A session writes one
 * answer at a time, others meanwhile are HADAL_STATUS_BUSY. That the callback or
 * hadal_session_cancel ended it is no failure, unless it was before the first token.
 */
HadalStatus hadal_generate(const HadalSession *session,
                           const HadalRequest *request,
                           HadalOnEvent on_event,
                           void *user,
                           HadalGenerated *generated,
                           HadalError **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HADAL_H */
