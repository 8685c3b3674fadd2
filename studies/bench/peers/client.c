/* The ceiling: publishes and consumes with librabbitmq, and does nothing else. No Redis, no frameworks.
 *
 *   client publish HOST PORT QUEUE COUNT    one AMQP message each, persistent, mandatory, confirms in a window
 *   client work HOST PORT QUEUE COUNT       manual acks, many at once, until COUNT are consumed; then waits for SIGTERM
 *
 *   client version                          of librabbitmq
 *
 * Prints the JSON lines that benchmarks/peers/measure.py reads; times are of CLOCK_MONOTONIC, in seconds.
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHANNEL = 1, HEARTBEAT_S = 0, FRAME_MAX = 131072, TEXT_SIZE = 100 };
enum { WINDOW = 2000, PREFETCH = 2000, ACK_EVERY = 200 };

static amqp_connection_state_t connection;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void need(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "client: %s\n", what);
    exit(1);
}

static void answered(const char *what) {
    need(amqp_get_rpc_reply(connection).reply_type == AMQP_RESPONSE_NORMAL, what);
}

static void open_channel(const char *host, int port, amqp_bytes_t queue) {
    connection = amqp_new_connection();
    need(amqp_socket_open(amqp_tcp_socket_new(connection), host, port) == AMQP_STATUS_OK, "can't connect");
    need(amqp_login(connection, "/", 0, FRAME_MAX, HEARTBEAT_S, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type
             == AMQP_RESPONSE_NORMAL, "login refused");
    amqp_channel_open(connection, CHANNEL);
    answered("no channel");
    amqp_table_entry_t type = {.key = amqp_cstring_bytes("x-queue-type"),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes("quorum")}};
    amqp_table_t arguments = {.num_entries = 1, .entries = &type};
    amqp_queue_declare(connection, CHANNEL, queue, 0, 1, 0, 0, arguments);
    answered("queue not declared");
}

/* Reads one confirm; gives the tag up to which all is confirmed. Confirms of a channel to one queue come in order. */
static uint64_t confirmed_upto(void) {
    amqp_frame_t frame;
    amqp_maybe_release_buffers(connection);
    need(amqp_simple_wait_frame(connection, &frame) == AMQP_STATUS_OK, "connection lost");
    need(frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD, "not confirmed");
    return ((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
}

static void publish(amqp_bytes_t queue, uint64_t count) {
    char body[256], text[2 * TEXT_SIZE];
    for (int i = 0; i < (int)sizeof text; i++) text[i] = 'a' + i % 26;
    amqp_basic_properties_t persistent = {
        ._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG,
        .delivery_mode = AMQP_DELIVERY_PERSISTENT, .content_type = amqp_cstring_bytes("application/json")};
    amqp_confirm_select(connection, CHANNEL);
    answered("no confirms");
    double begun_s = now_s();
    printf("{\"begun_s\": %.6f}\n", begun_s);
    fflush(stdout);
    uint64_t confirmed = 0;
    for (uint64_t seq = 0; seq < count; seq++) {
        while (seq - confirmed >= WINDOW) confirmed = confirmed_upto();
        int size = snprintf(body, sizeof body, "{\"id\": \"%.*s.%llu\", \"number\": \"+%llu\", \"text\": \"%.*s\"}",
            (int)queue.len, (char *)queue.bytes, (unsigned long long)seq, 999000000000ULL + seq,
            TEXT_SIZE, text + seq % TEXT_SIZE);
        amqp_bytes_t bytes = {.len = size, .bytes = body};
        need(amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 1, 0, &persistent, bytes)
                 == AMQP_STATUS_OK, "not published");
    }
    while (confirmed < count) confirmed = confirmed_upto();
    printf("{\"published\": %llu, \"elapsed_s\": %.6f}\n", (unsigned long long)count, now_s() - begun_s);
}

static void work(amqp_bytes_t queue, uint64_t count) {
    amqp_basic_qos(connection, CHANNEL, 0, PREFETCH, 0);
    answered("no prefetch");
    amqp_basic_consume(connection, CHANNEL, queue, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    answered("can't consume");
    for (uint64_t consumed = 1; consumed <= count; consumed++) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(connection);
        need(amqp_consume_message(connection, &envelope, NULL, 0).reply_type == AMQP_RESPONSE_NORMAL,
            "connection lost");
        need(envelope.message.body.len > TEXT_SIZE && !envelope.redelivered, "a message that was not published");
        if (consumed % ACK_EVERY == 0 || consumed == count)
            need(amqp_basic_ack(connection, CHANNEL, envelope.delivery_tag, 1) == AMQP_STATUS_OK, "not acked");
        amqp_destroy_envelope(&envelope);
        if (consumed == 1 || consumed == count) {
            printf("{\"sent\": %llu}\n", (unsigned long long)consumed);
            fflush(stdout);
        }
    }
    pause();
}

int main(int arguments, char **argument) {
    if (arguments == 2 && strcmp(argument[1], "version") == 0) return puts(amqp_version()) < 0;
    need(arguments == 6, "usage: client publish|work HOST PORT QUEUE COUNT");
    amqp_bytes_t queue = amqp_cstring_bytes(argument[4]);
    uint64_t count = strtoull(argument[5], NULL, 10);
    open_channel(argument[2], atoi(argument[3]), queue);
    if (strcmp(argument[1], "publish") == 0) publish(queue, count);
    else work(queue, count);
    return 0;
}
