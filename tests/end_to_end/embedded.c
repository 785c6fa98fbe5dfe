/*
 * A program with Hadal inside, in C11 with POSIX threads. Each test of
 * runtime/capi/tests/end_to_end.rs runs one part of it: `embedded PART [ARGUMENT]`.
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "hadal.h"

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition); \
            _exit(1);                                                        \
        }                                                                    \
    } while (0)

/* It worked, or the program ends with what happened. */
static void ok(HadalStatus status, HadalError *error) {
    if (status != HADAL_STATUS_OK) {
        fprintf(stderr, "%s: %s (%s)\n", hadal_status_name(status), hadal_error_message(error),
                hadal_error_cure(error));
        _exit(1);
    }
}

/* It failed with `wanted`, and says something. */
static void fails(HadalStatus status, HadalStatus wanted, HadalError **error) {
    if (status != wanted) {
        fprintf(stderr, "%s instead of %s: %s\n", hadal_status_name(status),
                hadal_status_name(wanted), *error ? hadal_error_message(*error) : "");
        _exit(1);
    }
    CHECK(*error != NULL && hadal_error_status(*error) == wanted);
    CHECK(strlen(hadal_error_message(*error)) > 3 && strlen(hadal_error_cure(*error)) > 3);
    hadal_error_free(*error);
    *error = NULL;
}

static HadalModel *shipped(void) {
    HadalModel *model = NULL;
    HadalError *error = NULL;
    ok(hadal_model_shipped(&model, &error), error);
    return model;
}

static HadalLoadOptions on_host(void) {
    HadalLoadOptions options = {
        .size = sizeof options, .device = "host", .context = 512, .threads = 2};
    return options;
}

static HadalEngine *load(const HadalModel *model) {
    HadalLoadOptions options = on_host();
    HadalEngine *engine = NULL;
    HadalError *error = NULL;
    ok(hadal_load(model, &options, &engine, &error), error);
    return engine;
}

static HadalSession *begin(const HadalEngine *engine) {
    HadalSession *session = NULL;
    HadalError *error = NULL;
    ok(hadal_session_new(engine, NULL, &session, &error), error);
    return session;
}

/* What an answer told. */
typedef struct {
    char text[8192];
    size_t text_len, tokens, routes, events, prompt_events;
    uint64_t drafted;
    uint32_t ids[600];
    /* Stop at this event; 0: never. */
    size_t stop_at;
    /* How many events were told, for other threads. */
    atomic_size_t told;
    int wants_logprobs;
} Answer;

static int32_t on_event(void *user, const HadalEvent *event) {
    Answer *answer = user;
    answer->events += 1;
    atomic_store(&answer->told, answer->events);
    CHECK(event->size >= sizeof *event);
    switch (event->kind) {
    case HADAL_EVENT_KIND_PROMPT:
        answer->prompt_events += 1;
        CHECK(event->done <= event->total);
        break;
    case HADAL_EVENT_KIND_TEXT:
        CHECK(event->text[event->text_len] == 0);
        CHECK(answer->text_len + event->text_len < sizeof answer->text);
        memcpy(answer->text + answer->text_len, event->text, event->text_len + 1);
        answer->text_len += event->text_len;
        for (size_t i = 0; i < event->tokens_len; i++) {
            const HadalToken *token = &event->tokens[i];
            answer->ids[answer->tokens++] = token->id;
            CHECK(answer->wants_logprobs ? token->logprob <= 0 && token->top_len == 2
                                         : isnan(token->logprob) && token->top_len == 0);
            if (token->top_len > 0) CHECK(token->top[0].logprob >= token->top[1].logprob);
        }
        break;
    case HADAL_EVENT_KIND_DRAFTS:
        CHECK(event->accepted <= event->drafted);
        answer->drafted = event->drafted;
        break;
    case HADAL_EVENT_KIND_ROUTES:
        answer->routes += event->routes_len;
        for (size_t i = 0; i < event->routes_len; i++) {
            CHECK(event->routes[i].experts_len > 0);
            CHECK(event->routes[i].weights[0] > 0);
        }
        break;
    }
    return answer->stop_at != 0 && answer->events >= answer->stop_at;
}

static HadalRequest story(uint64_t max_tokens) {
    HadalRequest request = {
        .size = sizeof request, .text = "Once upon a time", .max_tokens = max_tokens, .seed = 5};
    return request;
}

static HadalGenerated generate(const HadalSession *session, const HadalRequest *request,
                               Answer *answer) {
    HadalGenerated made = {.size = sizeof made};
    HadalError *error = NULL;
    ok(hadal_generate(session, request, on_event, answer, &made, &error), error);
    return made;
}

/* Prints a story: what the Python program must print too. */
static void part_story(void) {
    CHECK(hadal_abi_version() == 1 && strlen(hadal_version()) >= 5);
    CHECK(hadal_has_feature("tiny") == 1 && hadal_has_feature("host") == 1);
    CHECK(hadal_has_feature("abacus") == 0 && hadal_has_feature(NULL) == 0);
    HadalModel *model = shipped();
    HadalEngine *engine = load(model);
    HadalSession *session = begin(engine);
    HadalRequest request = story(40);
    Answer answer = {0};
    HadalGenerated made = generate(session, &request, &answer);
    CHECK(made.output_tokens == 40 && answer.tokens == 40);
    CHECK(made.finish == HADAL_FINISH_LENGTH && made.first_token_ns > 0);
    printf("%s\n", answer.text);
    hadal_session_free(session);
    hadal_engine_free(engine);
    hadal_model_free(model);
}

/* Everything that works, once. */
static void part_all(void) {
    HadalError *error = NULL;
    HadalDevices *devices = NULL;
    ok(hadal_devices(&devices, &error), error);
    int hosts = 0;
    for (size_t i = 0; i < hadal_devices_len(devices); i++) {
        HadalDevice device = {.size = sizeof device};
        ok(hadal_devices_get(devices, i, &device, &error), error);
        CHECK(device.backend != NULL && (device.id == NULL) == (device.why != NULL));
        hosts += device.id != NULL && strcmp(device.id, "host") == 0;
    }
    CHECK(hosts == 1);
    /* Here and not with the other failures: drivers keep what they allocate. */
    HadalDevice none = {.size = sizeof none};
    fails(hadal_devices_get(devices, hadal_devices_len(devices), &none, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_devices_get(devices, 0, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    hadal_devices_free(devices);

    HadalModel *model = shipped();
    CHECK(strlen(hadal_model_name(model)) > 0 && hadal_model_max_context(model) >= 512);
    HadalPlan plan = {.size = sizeof plan};
    char *json = NULL;
    HadalLoadOptions options = on_host();
    ok(hadal_plan(model, &options, &plan, &json, &error), error);
    CHECK(plan.fits == 1 && plan.context == 512 && plan.needed_bytes < plan.available_bytes);
    CHECK(strstr(json, "\"verdict\"") != NULL);
    hadal_string_free(json);

    HadalEngine *engine = load(model);
    CHECK(hadal_engine_context(engine) == 512 && hadal_engine_losses(engine) == 0);
    char *device = hadal_engine_device(engine);
    CHECK(strncmp(device, "host", 4) == 0);
    hadal_string_free(device);
    HadalSession *session = begin(engine);

    HadalRequest request = story(12);
    request.logprobs = 1;
    request.top_logprobs = 2;
    request.watch_experts = 1;
    HadalSampling greedy = {.size = sizeof greedy};
    request.sampling = &greedy;
    Answer answer = {.wants_logprobs = 1};
    HadalGenerated made = generate(session, &request, &answer);
    CHECK(answer.tokens == 12 && answer.routes > 0 && answer.prompt_events > 0);
    CHECK(answer.drafted == made.drafted);

    size_t len = 0;
    uint32_t ids[600];
    ok(hadal_session_tokens(session, ids, 600, &len, &error), error);
    CHECK(len > 12 && memcmp(ids + len - 12, answer.ids, 12 * sizeof *ids) == 0);
    HadalSession *fork = NULL;
    ok(hadal_session_fork(session, &fork, &error), error);
    ok(hadal_session_truncate(session, 3, &error), error);
    size_t cut = 0;
    ok(hadal_session_tokens(session, NULL, 0, &cut, &error), error);
    CHECK(cut == 3);
    ok(hadal_session_tokens(fork, NULL, 0, &cut, &error), error);
    CHECK(cut == len);
    ok(hadal_session_clear(session, &error), error);

    /* Ids and text are the same prompt. */
    size_t count = 0;
    ok(hadal_model_tokenize(model, "Once upon a time", ids, 600, &count, &error), error);
    CHECK(count >= 3 && count < 17);
    const char *stops[] = {"."};
    HadalRequest until = story(200);
    until.stop = stops;
    until.stop_len = 1;
    Answer sentence = {0};
    made = generate(session, &until, &sentence);
    CHECK(made.finish != HADAL_FINISH_STOP || strchr(sentence.text, '.') == NULL);

    HadalMemory memory = {.size = sizeof memory};
    ok(hadal_engine_memory(engine, &memory, &error), error);
    CHECK(memory.sessions == 2 && memory.budget_bytes == UINT64_MAX && memory.over_bytes == 0);
    ok(hadal_engine_set_low_priority(engine, 1, &error), error);
    ok(hadal_engine_trim(engine, &error), error);
    Answer again = {0};
    ok(hadal_session_clear(session, &error), error);
    generate(session, &until, &again);
    CHECK(strcmp(again.text, sentence.text) == 0);
    ok(hadal_engine_pause(engine, &error), error);
    CHECK(hadal_engine_is_paused(engine) == 1);
    ok(hadal_engine_resume(engine, &error), error);
    hadal_session_free(fork);
    hadal_session_free(session);
    hadal_engine_free(engine);
    hadal_model_free(model);
}

static int32_t refuse(void *user, uint64_t done, uint64_t total) {
    *(uint64_t *)user = total;
    return done <= total;
}

/* Nothing given to any function; also without a place for the error. */
static void no_handles(void) {
    HadalError *error = NULL;
    HadalModel *model = NULL;
    HadalEngine *engine = NULL;
    HadalSession *session = NULL;
    HadalDevice device = {.size = sizeof device};
    HadalMemory memory = {.size = sizeof memory};
    HadalPlan plan = {.size = sizeof plan};
    uint32_t ids[4];
    size_t len = 0;
    fails(hadal_model_open(NULL, &model, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_model_open("x", NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_model_open("\xff", &model, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_model_shipped(NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_model_from_bytes(NULL, &model, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_devices(NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_load(NULL, NULL, &engine, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_plan(NULL, NULL, NULL, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_new(NULL, NULL, &session, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_clear(NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_cancel(NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_engine_pause(NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_engine_trim(NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_generate(NULL, NULL, NULL, NULL, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT,
          &error);
    fails(hadal_plan(NULL, NULL, &plan, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_devices_get(NULL, 0, &device, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_model_tokenize(NULL, "x", ids, 4, &len, &error), HADAL_STATUS_INVALID_ARGUMENT,
          &error);
    fails(hadal_engine_resume(NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_engine_memory(NULL, &memory, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_engine_set_budget(NULL, 1, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_engine_set_low_priority(NULL, 1, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_fork(NULL, &session, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_truncate(NULL, 0, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_tokens(NULL, ids, 4, &len, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    CHECK(model == NULL && engine == NULL && session == NULL && len == 0);
    CHECK(hadal_model_open(NULL, &model, NULL) == HADAL_STATUS_INVALID_ARGUMENT);
    CHECK(hadal_error_status(NULL) == HADAL_STATUS_OK && hadal_error_message(NULL) == NULL);
    CHECK(hadal_engine_device(NULL) == NULL && hadal_model_name(NULL) == NULL);
    CHECK(hadal_model_can_chat(NULL) == 0 && hadal_engine_context(NULL) == 0);
    CHECK(hadal_devices_len(NULL) == 0 && hadal_error_plan(NULL) == NULL);
    CHECK(hadal_error_cure(NULL) == NULL && hadal_model_max_context(NULL) == 0);
    CHECK(hadal_engine_is_paused(NULL) == 0 && hadal_engine_losses(NULL) == 0);
    hadal_model_free(NULL);
    hadal_engine_free(NULL);
    hadal_session_free(NULL);
    hadal_devices_free(NULL);
    hadal_error_free(NULL);
    hadal_string_free(NULL);
    CHECK(strcmp(hadal_status_name(-1), "unknown") == 0);
}

/* Requests without a text where one is needed, or with one that is no UTF-8. */
static void wrong_texts(const HadalSession *session) {
    const char *stops[] = {".", NULL}, *garbled_stops[] = {"\xff"};
    const HadalMessage messages[] = {
        {NULL, "Hello"}, {"user", NULL}, {"\xff", "Hello"}, {"user", "\xff"}};
    HadalRequest requests[9];
    for (int i = 0; i < 4; i++)
        requests[i] = (HadalRequest){
            .size = sizeof *requests, .messages = &messages[i], .messages_len = 1};
    for (int i = 4; i < 9; i++) requests[i] = story(4);
    requests[4].text = "\xff";
    requests[5].text = NULL;
    requests[5].messages_json = "\xff";
    requests[6].stop = stops;
    requests[6].stop_len = 2;
    requests[7].stop_len = 1;
    requests[8].stop = garbled_stops;
    requests[8].stop_len = 1;
    HadalError *error = NULL;
    fails(hadal_generate(session, NULL, NULL, NULL, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT,
          &error);
    for (int i = 0; i < 9; i++)
        fails(hadal_generate(session, &requests[i], NULL, NULL, NULL, &error),
              HADAL_STATUS_INVALID_ARGUMENT, &error);
}

/* Every failure that can be had without another device; `folder` has a damaged model. */
static void part_errors(const char *folder) {
    no_handles();
    HadalError *error = NULL;
    HadalModel *model = NULL;
    HadalEngine *engine = NULL;
    HadalSession *session = NULL;

    /* Files. */
    fails(hadal_model_open("/there/is/nothing", &model, &error), HADAL_STATUS_FILE, &error);
    fails(hadal_model_open(folder, &model, &error), HADAL_STATUS_DAMAGED_MODEL, &error);
    const uint8_t gguf[] = "GGUF but no more";
    HadalModelBytes bytes = {.size = sizeof bytes, .gguf = gguf, .gguf_len = sizeof gguf};
    fails(hadal_model_from_bytes(&bytes, &model, &error), HADAL_STATUS_DAMAGED_MODEL, &error);
    HadalModelBytes other = {.size = sizeof other, .config_json = "{\"model_type\": \"x\"}"};
    fails(hadal_model_from_bytes(&other, &model, &error), HADAL_STATUS_UNSUPPORTED_MODEL, &error);
    HadalModelBytes nothing = {.size = sizeof nothing};
    fails(hadal_model_from_bytes(&nothing, &model, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    HadalModelBytes garbled = {.size = sizeof garbled, .config_json = "\xff"};
    fails(hadal_model_from_bytes(&garbled, &model, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);

    /* Loads. */
    model = shipped();
    HadalLoadOptions options = on_host();
    options.size = 3;
    fails(hadal_load(model, &options, &engine, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    options = on_host();
    options.device = "abacus";
    fails(hadal_load(model, &options, &engine, &error), HADAL_STATUS_NO_DEVICE, &error);
    HadalPlan planned = {.size = sizeof planned};
    fails(hadal_plan(model, &options, &planned, NULL, &error), HADAL_STATUS_NO_DEVICE, &error);
    options.device = "\xff";
    fails(hadal_load(model, &options, &engine, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_plan(model, &options, &planned, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT,
          &error);
    options = on_host();
    options.threads = 1000000;
    fails(hadal_load(model, &options, &engine, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    options = on_host();
    options.context = 100000000;
    fails(hadal_load(model, &options, &engine, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    options = on_host();
    options.host_budget = 1000;
    HadalStatus status = hadal_load(model, &options, &engine, &error);
    CHECK(status == HADAL_STATUS_WOULD_NOT_FIT);
    char *plan = hadal_error_plan(error);
    CHECK(plan != NULL && strstr(plan, "\"nearest\"") != NULL);
    hadal_string_free(plan);
    fails(status, HADAL_STATUS_WOULD_NOT_FIT, &error);
    options = on_host();
    uint64_t total = 0;
    options.on_progress = refuse;
    options.user = &total;
    fails(hadal_load(model, &options, &engine, &error), HADAL_STATUS_CANCELLED, &error);
    CHECK(total > 1000000 && engine == NULL);

    fails(hadal_model_tokenize(model, NULL, NULL, 0, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT,
          &error);
    size_t len = 0;
    fails(hadal_model_tokenize(model, "\xff", NULL, 0, &len, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);

    /* Sessions and requests. */
    engine = load(model);
    fails(hadal_load(model, NULL, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_new(engine, NULL, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_engine_memory(engine, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    HadalMemory memory = {.size = sizeof memory};
    ok(hadal_engine_set_budget(engine, 1000, &memory, &error), error);
    CHECK(memory.over_bytes > 0 && memory.sessions == 0);
    fails(hadal_session_new(engine, NULL, &session, &error), HADAL_STATUS_OUT_OF_MEMORY, &error);
    ok(hadal_engine_set_budget(engine, UINT64_MAX, NULL, &error), error);
    session = begin(engine);
    HadalRequest request = {.size = sizeof request};
    fails(hadal_generate(session, &request, NULL, NULL, NULL, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);
    request.text = "";
    request.messages_json = "[]";
    fails(hadal_generate(session, &request, NULL, NULL, NULL, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);
    request.text = NULL;
    request.messages_json = "[";
    fails(hadal_generate(session, &request, NULL, NULL, NULL, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);
    request = story(4);
    request.thinking = 7;
    fails(hadal_generate(session, &request, NULL, NULL, NULL, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);
    request = story(4);
    HadalSampling hot = {.size = sizeof hot, .temperature = -1};
    request.sampling = &hot;
    fails(hadal_generate(session, &request, NULL, NULL, NULL, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);
    static const uint32_t many[600] = {1};
    HadalRequest too_long = {.size = sizeof too_long, .ids = many, .ids_len = 600};
    fails(hadal_generate(session, &too_long, NULL, NULL, NULL, &error), HADAL_STATUS_CONTEXT_FULL,
          &error);
    HadalRequest empty = {.size = sizeof empty, .ids = many};
    fails(hadal_generate(session, &empty, NULL, NULL, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT,
          &error);
    HadalGenerated small = {.size = 2};
    request = story(4);
    fails(hadal_generate(session, &request, NULL, NULL, &small, &error),
          HADAL_STATUS_INVALID_ARGUMENT, &error);
    fails(hadal_session_tokens(session, NULL, 5, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT,
          &error);
    fails(hadal_session_fork(session, NULL, &error), HADAL_STATUS_INVALID_ARGUMENT, &error);
    wrong_texts(session);
    if (!hadal_model_can_chat(model)) {
        HadalMessage hello = {"user", "Hello"};
        HadalRequest chat = {.size = sizeof chat, .messages = &hello, .messages_len = 1};
        fails(hadal_generate(session, &chat, NULL, NULL, NULL, &error), HADAL_STATUS_NO_TEXT,
              &error);
    }
    Answer answer = {0};
    request = story(4);
    CHECK(generate(session, &request, &answer).output_tokens == 4);
    hadal_session_free(session);
    hadal_engine_free(engine);
    hadal_model_free(model);
}

/* Resident bytes, threads and open files of this process. */
static void usage(long *bytes, long *threads, long *files) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%*d %ld", &pages) == 1);
    fclose(file);
    *bytes = pages * sysconf(_SC_PAGESIZE);
    const char *folders[] = {"/proc/self/task", "/proc/self/fd"};
    long *counts[] = {threads, files};
    for (int i = 0; i < 2; i++) {
        DIR *folder = opendir(folders[i]);
        CHECK(folder != NULL);
        for (*counts[i] = 0; readdir(folder) != NULL;) *counts[i] += 1;
        closedir(folder);
    }
}

static void cycle(void) {
    HadalModel *model = shipped();
    HadalEngine *engine = load(model);
    HadalSession *session = begin(engine);
    HadalRequest request = story(0);
    request.ignore_end = 1;
    Answer answer = {.stop_at = 4};
    CHECK(generate(session, &request, &answer).finish == HADAL_FINISH_CANCELLED);
    hadal_session_free(session);
    hadal_engine_free(engine);
    hadal_model_free(model);
}

/* Opens a model, loads it, generates, cancels and closes, `count` times. */
static void part_cycles(const char *argument) {
    int count = atoi(argument);
    long before[3], after[3];
    for (int i = 0; i < count; i++) {
        cycle();
        /* Whatever is allocated once has been by then. */
        if (i == count / 4) usage(&before[0], &before[1], &before[2]);
    }
    usage(&after[0], &after[1], &after[2]);
    printf("bytes %ld -> %ld, threads %ld -> %ld, files %ld -> %ld\n", before[0], after[0],
           before[1], after[1], before[2], after[2]);
#ifndef __SANITIZE_ADDRESS__ /* which keeps what was freed */
    CHECK(after[0] - before[0] < 4 << 20);
#endif
    CHECK(after[1] == before[1] && after[2] == before[2]);
}

/* From now on the system gives this process only `bytes` more than it has. */
static void leave(uint64_t bytes) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    struct rlimit little;
    CHECK(getrlimit(RLIMIT_AS, &little) == 0);
    little.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + bytes;
    CHECK(setrlimit(RLIMIT_AS, &little) == 0);
}

/* The system gives as much as it did. */
static void leave_all(void) {
    struct rlimit all;
    CHECK(getrlimit(RLIMIT_AS, &all) == 0);
    all.rlim_cur = all.rlim_max;
    CHECK(setrlimit(RLIMIT_AS, &all) == 0);
}

/* The system refuses memory for whatever is as large as a model or a session: an error, and
   everything goes on. `folder` has a model of a GiB. */
static void part_memory(const char *folder) {
    HadalError *error = NULL;
    HadalModel *model = NULL;
    size_t large = (size_t)96 << 20;
    uint8_t *zeros = calloc(large, 1);
    CHECK(zeros != NULL);
    leave(large / 2);
    HadalModelBytes gguf = {.size = sizeof gguf, .gguf = zeros, .gguf_len = large};
    fails(hadal_model_from_bytes(&gguf, &model, &error), HADAL_STATUS_OUT_OF_MEMORY, &error);
    HadalModelBytes files = {.size = sizeof files,
                             .config_json = "{}",
                             .safetensors = zeros,
                             .safetensors_len = large};
    fails(hadal_model_from_bytes(&files, &model, &error), HADAL_STATUS_OUT_OF_MEMORY, &error);
    fails(hadal_model_open(folder, &model, &error), HADAL_STATUS_OUT_OF_MEMORY, &error);
    leave_all();
    free(zeros);
    CHECK(model == NULL);

    model = shipped();
    HadalLoadOptions options = on_host();
    options.context = 0;
    HadalEngine *engine = NULL;
    /* Less than its table of rotations. */
    leave((uint64_t)64 << 10);
    HadalStatus refused = hadal_load(model, &options, &engine, &error);
    leave_all();
    fails(refused, HADAL_STATUS_OUT_OF_MEMORY, &error);
    CHECK(engine == NULL);
    ok(hadal_load(model, &options, &engine, &error), error);
    HadalSession *session = begin(engine);
    HadalMemory memory = {.size = sizeof memory};
    ok(hadal_engine_memory(engine, &memory, &error), error);
    CHECK(memory.session_bytes > 6 << 20);
    leave(memory.session_bytes / 2);
    HadalSession *second = NULL;
    HadalStatus status = hadal_session_new(engine, NULL, &second, &error);
    leave_all();
    fails(status, HADAL_STATUS_OUT_OF_MEMORY, &error);
    ok(hadal_engine_memory(engine, &memory, &error), error);
    CHECK(second == NULL && memory.sessions == 1);
    HadalRequest request = story(8);
    Answer answer = {0};
    CHECK(generate(session, &request, &answer).output_tokens == 8);
    hadal_session_free(session);
    hadal_session_free(begin(engine));
    hadal_engine_free(engine);
    hadal_model_free(model);
}

typedef struct {
    const HadalEngine *engine;
    const HadalSession *session;
    uint64_t seed;
    Answer answer;
    HadalGenerated made;
} Work;

static void *work(void *argument) {
    Work *mine = argument;
    HadalRequest request = story(48);
    request.seed = mine->seed;
    HadalSession *session = begin(mine->engine);
    mine->made = generate(session, &request, &mine->answer);
    hadal_session_free(session);
    return NULL;
}

/* Eight threads, each with its own session: as one after the other. */
static void part_threads(void) {
    HadalModel *model = shipped();
    HadalEngine *engine = load(model);
    static Work together[8], alone[8];
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) {
        together[i] = alone[i] = (Work){.engine = engine, .seed = (uint64_t)i};
        CHECK(pthread_create(&threads[i], NULL, work, &together[i]) == 0);
    }
    for (int i = 0; i < 8; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < 8; i++) {
        work(&alone[i]);
        CHECK(alone[i].answer.tokens > 0);
        CHECK(strcmp(alone[i].answer.text, together[i].answer.text) == 0);
    }
    CHECK(strcmp(alone[0].answer.text, alone[1].answer.text) != 0);
    hadal_engine_free(engine);
    hadal_model_free(model);
}

static void *endless(void *argument) {
    Work *mine = argument;
    HadalRequest request = story(400);
    request.ignore_end = 1;
    mine->made = generate(mine->session, &request, &mine->answer);
    return NULL;
}

static void wait_for(Work *mine, size_t events) {
    while (atomic_load(&mine->answer.told) < events) usleep(100);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Another thread cancels, in a pause too; meanwhile the session is busy. `longest`: the seconds in
   which that must be heard, where other work takes the processor and under slow tools too. */
static void part_cancel(const char *longest) {
    double most = atof(longest);
    CHECK(most > 0);
    HadalModel *model = shipped();
    HadalEngine *engine = load(model);
    HadalSession *session = begin(engine);
    HadalError *error = NULL;
    for (int paused = 0; paused < 2; paused++) {
        static Work mine;
        memset(&mine, 0, sizeof mine);
        mine.made.size = sizeof mine.made;
        mine.session = session;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, endless, &mine) == 0);
        wait_for(&mine, 6);
        if (paused) ok(hadal_engine_pause(engine, &error), error);
        HadalRequest request = story(4);
        fails(hadal_generate(session, &request, NULL, NULL, NULL, &error), HADAL_STATUS_BUSY,
              &error);
        fails(hadal_session_clear(session, &error), HADAL_STATUS_BUSY, &error);
        if (paused) usleep(50000);
        double started = now();
        ok(hadal_session_cancel(session, &error), error);
        CHECK(pthread_join(thread, NULL) == 0);
        double seconds = now() - started;
        CHECK(mine.made.finish == HADAL_FINISH_CANCELLED && mine.answer.tokens < 400);
        /* A step of this model takes a few milliseconds in a debug build. */
        printf("cancelled within %.1f ms\n", 1e3 * seconds);
        CHECK(seconds < most);
        ok(hadal_engine_resume(engine, &error), error);
        ok(hadal_session_clear(session, &error), error);
    }
    hadal_session_free(session);
    hadal_engine_free(engine);
    hadal_model_free(model);
}

/* Everything that a callback may free. */
typedef struct {
    HadalModel *model;
    HadalEngine *engine;
    HadalSession *session;
    size_t events;
} Handles;

static int32_t free_model(void *user, uint64_t done, uint64_t total) {
    Handles *mine = user;
    hadal_model_free(mine->model);
    mine->model = NULL;
    return done > total;
}

static int32_t free_all(void *user, const HadalEvent *event) {
    Handles *mine = user;
    HadalError *error = NULL;
    CHECK(event->size >= sizeof *event);
    if (mine->session != NULL)
        fails(hadal_session_clear(mine->session, &error), HADAL_STATUS_BUSY, &error);
    mine->events += 1;
    hadal_session_free(mine->session);
    hadal_engine_free(mine->engine);
    mine->session = NULL;
    mine->engine = NULL;
    return 0;
}

/* Callbacks free what called them. */
static void frees_within(void) {
    HadalError *error = NULL;
    Handles mine = {.model = shipped()};
    HadalLoadOptions options = on_host();
    options.on_progress = free_model;
    options.user = &mine;
    ok(hadal_load(mine.model, &options, &mine.engine, &error), error);
    CHECK(mine.model == NULL);
    mine.session = begin(mine.engine);
    HadalRequest request = story(8);
    HadalGenerated made = {.size = sizeof made};
    ok(hadal_generate(mine.session, &request, free_all, &mine, &made, &error), error);
    CHECK(mine.session == NULL && mine.events > 1 && made.output_tokens == 8);
}

/* Handles freed in the wrong order, and in callbacks: what is left goes on. */
static void part_order(void) {
    frees_within();
    HadalModel *model = shipped();
    HadalEngine *engine = load(model);
    HadalSession *session = begin(engine);
    hadal_model_free(model);
    hadal_engine_free(engine);
    HadalRequest request = story(8);
    Answer answer = {0};
    CHECK(generate(session, &request, &answer).output_tokens == 8);
    hadal_session_free(session);
}

/* A library without the model. */
static void part_not_built(void) {
    HadalModel *model = NULL;
    HadalError *error = NULL;
    CHECK(hadal_has_feature("tiny") == 0 && hadal_has_feature("host") == 1);
    fails(hadal_model_shipped(&model, &error), HADAL_STATUS_NOT_BUILT, &error);
    CHECK(model == NULL);
}

/* The weights of the model in `folder` are cut short while it is used. */
static void part_shrink(const char *folder) {
    HadalError *error = NULL;
    HadalModel *model = NULL;
    ok(hadal_survive_lost_pages(&error), error);
    ok(hadal_model_open(folder, &model, &error), error);
    HadalEngine *engine = load(model);
    HadalSession *session = begin(engine);
    char path[4096];
    CHECK(snprintf(path, sizeof path, "%s/model.safetensors", folder) < (int)sizeof path);
    CHECK(truncate(path, 1 << 20) == 0);
    static const uint32_t ids[] = {1, 2, 3};
    HadalRequest request = {.size = sizeof request, .ids = ids, .ids_len = 3, .max_tokens = 4};
    fails(hadal_generate(session, &request, NULL, NULL, NULL, &error), HADAL_STATUS_DAMAGED_MODEL,
          &error);
    hadal_session_free(session);
    hadal_engine_free(engine);
    hadal_model_free(model);
}

/* Ends in the middle of an answer. */
static void part_exit(void) {
    static Work mine;
    HadalModel *model = shipped();
    HadalEngine *engine = load(model);
    mine.session = begin(engine);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, endless, &mine) == 0);
    wait_for(&mine, 5);
    exit(0);
}

int main(int count, char **arguments) {
    CHECK(count >= 2);
    const char *part = arguments[1], *argument = count > 2 ? arguments[2] : "";
    if (strcmp(part, "story") == 0) part_story();
    else if (strcmp(part, "all") == 0) part_all();
    else if (strcmp(part, "errors") == 0) part_errors(argument);
    else if (strcmp(part, "cycles") == 0) part_cycles(argument);
    else if (strcmp(part, "threads") == 0) part_threads();
    else if (strcmp(part, "cancel") == 0) part_cancel(argument);
    else if (strcmp(part, "memory") == 0) part_memory(argument);
    else if (strcmp(part, "order") == 0) part_order();
    else if (strcmp(part, "exit") == 0) part_exit();
    else if (strcmp(part, "shrink") == 0) part_shrink(argument);
    else if (strcmp(part, "not_built") == 0) part_not_built();
    else CHECK(!"a part of this program");
    return 0;
}
