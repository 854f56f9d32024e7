/* Heat in a rod, iterated; killed at any moment it goes on at the last committed iteration.
 *
 * Two arrays are used in turn.  An iteration writes the one that does not count, makes it durable,
 * and then lets it count: a transaction of one line.  The end of a run that was killed a hundred
 * times is, bit for bit, that of one that was not.
 *
 *   solver ARENA ITERATIONS      prints the iteration it begins at, and in the end the checksum */
#include <bartender.h>
#include <stdio.h>
#include <stdlib.h>

#define CELLS 4096

struct state {
  long iteration;
  int current; /* which of the arrays counts */
  double* rod[2];
};

static struct state* make(struct btd_cluster* cluster) {
  struct state* state;
  if (btd_tx_begin(cluster) != 0) return NULL;
  state = btd_tx_calloc(1, sizeof(*state));
  if (state != NULL) {
    state->rod[0] = btd_tx_calloc(CELLS, sizeof(double));
    state->rod[1] = btd_tx_calloc(CELLS, sizeof(double));
  }
  if (state == NULL || state->rod[0] == NULL || state->rod[1] == NULL) {
    btd_tx_abort();
    return NULL;
  }
  state->rod[0][0] = state->rod[1][0] = 1000.0; /* one end is kept hot */
  btd_root_set(cluster, "state", state);
  return btd_tx_commit() == 0 ? state : NULL;
}

int main(int count, char** arguments) {
  struct btd_cluster* cluster = count == 3 ? btd_cluster_open(arguments[1]) : NULL;
  struct state* state;
  double sum = 0.0;
  int i;
  if (cluster == NULL) return 2;
  state = btd_root_get(cluster, "state");
  if (state == NULL) state = make(cluster);
  if (state == NULL) return 2;
  printf("from iteration %ld\n", state->iteration);
  fflush(stdout);
  while (state->iteration < atol(arguments[2])) {
    const double* now = state->rod[state->current];
    double* next = state->rod[1 - state->current];
    for (i = 1; i < CELLS - 1; i++)
      next[i] = now[i] + 0.25 * (now[i - 1] - 2 * now[i] + now[i + 1]);
    btd_persist(next, CELLS * sizeof(double));

    btd_tx_begin(cluster);
    btd_tx_add(state, sizeof(*state));
    state->iteration++;
    state->current = 1 - state->current;
    if (btd_tx_commit() != 0) return 3;
  }
  for (i = 0; i < CELLS; i++) sum += state->rod[state->current][i] * (i + 1);
  printf("iteration %ld, checksum %.17g\n", state->iteration, sum);
  return btd_cluster_close(cluster);
}
