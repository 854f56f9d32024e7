/* The linked list of the nvm_malloc paper (Schwalb, Berning, Faust, Dreseler, Plattner, ADMS 2015,
 * section 4): a node is reserved, filled, and activated together with the pointer that links it in.
 * Killed at any moment, no node is lost and none is half there.
 *
 *   linked_list ARENA COUNT      appends until there are COUNT nodes, each with the next number */
#include <bartender.h>
#include <stdio.h>
#include <stdlib.h>

struct node {
  struct node* next;
  long number;
};

struct list {
  struct node* head;
  struct node* tail;
};

static int append(struct btd_cluster* cluster, struct list* list, long number) {
  struct node* node = btd_reserve(cluster, sizeof(*node));
  if (node == NULL) return -1;
  node->next = NULL;
  node->number = number;
  /* From here on the block is live, linked in, and the last: one step. */
  return btd_activate(node, list->tail == NULL ? (void**)&list->head : (void**)&list->tail->next,
                      node, (void**)&list->tail, node);
}

int main(int count, char** arguments) {
  struct btd_cluster* cluster = count == 3 ? btd_cluster_open(arguments[1]) : NULL;
  struct list* list;
  const struct node* node;
  const struct node* last = NULL;
  long numbers = 0;
  if (cluster == NULL) return 2;
  list = btd_persistent(cluster, "list", sizeof(*list));
  if (list == NULL) return 2;
  for (node = list->head; node != NULL; node = node->next) {
    if (node->number != numbers++ || btd_usable_size((void*)node) == 0) {
      printf("node %ld is wrong\n", numbers - 1);
      return 1;
    }
    last = node;
  }
  if (last != list->tail) {
    printf("the tail is wrong\n");
    return 1;
  }
  printf("found %ld nodes, all right\n", numbers);
  fflush(stdout);
  while (numbers < atol(arguments[2])) {
    if (append(cluster, list, numbers++) != 0) return 3;
  }
  return btd_cluster_close(cluster);
}
