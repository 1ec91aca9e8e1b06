/* An image of a user's own in one static program: it trains and serves as a container of SageMaker's has to.
 *
 * `train` does what the hyperparameter "act" says; `serve` does what a request's body says.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 65536

static volatile sig_atomic_t told, busy;
static char loaded[16][256], folders[16][512];

static void on_term(int number) { (void)number; told = 1; }

static int read_file(const char *path, char *to, int most) {
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    int count = (int)fread(to, 1, most - 1, file);
    to[count] = 0;
    fclose(file);
    return count;
}

static int write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    if (!file) return -1;
    fputs(text, file);
    return fclose(file);
}

static void grow(void) {
    for (;;) { char *more = malloc(1 << 20); if (more) memset(more, 1, 1 << 20); usleep(1000); }
}

static int connect_to(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) == 0) return connection;
    close(connection);
    return -1;
}

/* The first line of what Clary answers at the address that AWS_ENDPOINT_URL names. */
static void ask_clary(char *answer) {
    const char *url = getenv("AWS_ENDPOINT_URL"), *colon = url ? strrchr(url, ':') : 0;
    int connection = colon ? connect_to("127.0.0.1", atoi(colon + 1)) : -1;
    if (connection < 0) { strcpy(answer, "unreachable"); return; }
    const char *request = "GET /_clary/health HTTP/1.0\r\n\r\n";
    write(connection, request, strlen(request));
    int count = (int)read(connection, answer, 255);
    answer[count > 0 ? count : 0] = 0;
    answer[strcspn(answer, "\r\n")] = 0;
    close(connection);
}

/* The address that /etc/hosts has for a name. */
static void address_of(const char *wanted, char *found) {
    char hosts[MOST], address[64], names[512];
    strcpy(found, "unknown");
    if (read_file("/etc/hosts", hosts, MOST) < 0) return;
    for (char *line = strtok(hosts, "\n"); line; line = strtok(0, "\n"))
        if (sscanf(line, "%63s %511[^\n]", address, names) == 2 && strstr(names, wanted)) { strcpy(found, address); return; }
}

static void show(const char *title, const char *path) {
    char text[MOST];
    printf("%s %s\n", title, read_file(path, text, MOST) < 0 ? "missing" : text);
}

static int train(int count, char **words) {
    char settings[MOST] = "", text[MOST], resources[MOST] = "";
    for (int index = 0; index < count; index++) printf("argument %s\n", words[index]);
    show("hyperparameters", "/opt/ml/input/config/hyperparameters.json");
    show("channels", "/opt/ml/input/config/inputdataconfig.json");
    show("resources", "/opt/ml/input/config/resourceconfig.json");
    printf("job %s\n", getenv("TRAINING_JOB_NAME") ? getenv("TRAINING_JOB_NAME") : "none");
    printf("own variable %s\n", getenv("OWN") ? getenv("OWN") : "none");
    ask_clary(text);
    printf("clary %s\n", text);
    read_file("/opt/ml/input/config/hyperparameters.json", settings, MOST);
    read_file("/opt/ml/input/config/resourceconfig.json", resources, MOST);
    if (strstr(settings, "fail")) {
        write_file("/opt/ml/output/failure", "the data has no labels");
        return 3;
    }
    if (strstr(settings, "code")) show("code", "/opt/ml/code/words");
    if (strstr(settings, "grow")) grow();
    if (strstr(settings, "wait")) {
        printf("waiting\n");
        while (!told) usleep(10000);
        printf("told to end\n");
        return write_file("/opt/ml/model/name", "unfinished") ? 1 : 0;
    }
    if (strstr(settings, "deaf")) {
        signal(SIGTERM, SIG_IGN);
        printf("waiting\n");
        for (;;) pause();
    }
    if (strstr(settings, "meet")) {  /* algo-1 listens, algo-2 says hello */
        int first = strstr(resources, "\"current_host\": \"algo-1\"") != 0;
        if (first) {
            struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(7777)};
            int listener = socket(AF_INET, SOCK_STREAM, 0);
            bind(listener, (struct sockaddr *)&any, sizeof any);
            listen(listener, 1);
            int connection = accept(listener, 0, 0);
            int length = (int)read(connection, text, 255);
            text[length > 0 ? length : 0] = 0;
            printf("met %s\n", text);
        } else {
            int connection = -1;
            address_of("algo-1", text);
            for (int tries = 0; connection < 0 && tries < 500; tries++) { usleep(20000); connection = connect_to(text, 7777); }
            write(connection, "algo-2", 6);
            close(connection);
        }
    }
    if (read_file("/opt/ml/input/data/training/name", text, MOST) < 0) strcpy(text, "nobody");
    printf("loss=0.25;\n");
    write_file("/opt/ml/output/data/report", "all is well");
    return write_file("/opt/ml/model/name", text) ? 1 : 0;
}

static void answer(int connection, int status, const char *body) {
    char head[256];
    int length = (int)strlen(body);
    snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", status, length);
    write(connection, head, strlen(head));
    write(connection, body, length);
}

static int find(const char *name) {
    for (int index = 0; index < 16; index++) if (!strcmp(loaded[index], name)) return index;
    return -1;
}

static void field(const char *body, const char *name, char *to) {
    const char *start = strstr(body, name);
    *to = 0;
    if (start) sscanf(strchr(start, ':') + 1, " \"%255[^\"]", to);
}

static void serve_models(int connection, const char *method, const char *path, const char *body) {
    char name[256] = "", url[256], file[1024], text[MOST], reply[MOST + 512];
    if (!strcmp(method, "POST") && !strcmp(path, "/models")) {
        field(body, "model_name", name);
        field(body, "url", url);
        if (find(name) >= 0) { answer(connection, 409, ""); return; }
        int index = find("");
        strcpy(loaded[index], name);
        strcpy(folders[index], url);
        printf("loaded from %s\n", url);
        answer(connection, 200, "");
        return;
    }
    sscanf(path, "/models/%255[^/]", name);
    int index = find(name);
    if (index < 0 || !*name) { answer(connection, 404, ""); return; }
    if (!strcmp(method, "DELETE")) { loaded[index][0] = 0; answer(connection, 200, ""); return; }
    snprintf(file, sizeof file, "%s/name", folders[index]);
    if (read_file(file, text, MOST) < 0) strcpy(text, "no file");
    snprintf(reply, sizeof reply, "%s %s", text, body);
    answer(connection, 200, reply);
}

static void serve_one(int connection, const char *method, const char *path, const char *body) {
    char text[MOST] = "", reply[MOST * 2 + 512] = "";
    if (!strcmp(path, "/ping")) { answer(connection, getenv("NEVER_WELL") ? 500 : 200, ""); return; }
    if (!strncmp(path, "/models", 7)) { serve_models(connection, method, path, body); return; }
    if (!strcmp(body, "die")) _exit(7);
    if (!strcmp(body, "grow")) grow();
    if (!strcmp(body, "clary")) { ask_clary(text); answer(connection, 200, text); return; }
    if (!strcmp(body, "internet")) {
        int reached = connect_to("10.255.255.1", 9);
        answer(connection, 200, reached < 0 ? "unreachable" : "reached");
        return;
    }
    if (!strncmp(body, "env ", 4)) { answer(connection, 200, getenv(body + 4) ? getenv(body + 4) : "none"); return; }
    if (!strncmp(body, "write ", 6)) { answer(connection, 200, write_file(body + 6, "x") ? "refused" : "written"); return; }
    if (!strcmp(body, "slow")) { busy = 1; sleep(1); }
    if (read_file("/opt/ml/model/name", text, MOST) < 0) strcpy(text, "nobody");
    text[strcspn(text, "\n")] = 0;
    snprintf(reply, sizeof reply, "%s %s", text, body);
    answer(connection, 200, reply);
    if (!strcmp(body, "slow")) busy = 0;
}

static void *serve_connection(void *argument) {
    int connection = (int)(long)argument, have = 0, one = 1;
    char *data = malloc(MOST);
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (;;) {
        char *end, method[16], path[512];
        data[have] = 0;
        if (!(end = strstr(data, "\r\n\r\n"))) {
            int count = (int)read(connection, data + have, MOST - 1 - have);
            if (count <= 0) break;
            have += count;
            continue;
        }
        int head = (int)(end - data) + 4, length = 0;
        for (char *line = data; line < end; line = strchr(line, '\n') + 1)
            if (!strncasecmp(line, "content-length:", 15)) length = atoi(line + 15);
        while (have < head + length) {
            int count = (int)read(connection, data + have, MOST - 1 - have);
            if (count <= 0) goto done;
            have += count;
        }
        sscanf(data, "%15s %511s", method, path);
        char *body = strndup(data + head, length);
        serve_one(connection, method, path, body);
        free(body);
        memmove(data, data + head + length, have - head - length);
        have -= head + length;
    }
done:
    close(connection);
    free(data);
    return 0;
}

static void *await_end(void *argument) {
    (void)argument;
    while (!told) usleep(5000);
    printf("told to end\n");
    while (busy) usleep(5000);
    _exit(0);
}

static int serve(void) {
    pthread_t thread;
    int port = getenv("SAGEMAKER_BIND_TO_PORT") ? atoi(getenv("SAGEMAKER_BIND_TO_PORT")) : 8080, one = 1;
    if (getenv("FAILS_TO_LOAD")) { fprintf(stderr, "this is no model\n"); return 5; }
    if (getenv("DEAF")) signal(SIGTERM, SIG_IGN);
    else pthread_create(&thread, 0, await_end, 0);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 128)) return 6;
    printf("serves on port %d\n", port);
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection >= 0) pthread_create(&thread, 0, serve_connection, (void *)(long)connection);
    }
}

int main(int count, char **words) {
    struct sigaction action = {.sa_handler = on_term, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &action, 0);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, 0, _IOLBF, 0);
    if (count > 1 && !strcmp(words[1], "serve")) return serve();
    return train(count, words);
}
