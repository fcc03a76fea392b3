/* The few functions of MPI that sums over the torus need, behind names and types that are the same
 * for every MPI: compiled by the machine's own `mpicc` when they are first asked for, since handles
 * are pointers in one MPI and numbers in another. Each returns 0 if it went well. */
#include <mpi.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static int serialized; /* whether MPI has to be asked by one thread at a time */

static void enter(void) {
  if (serialized) pthread_mutex_lock(&one_at_a_time);
}

static int leave(int code) {
  if (serialized) pthread_mutex_unlock(&one_at_a_time);
  return code;
}

/* Starts MPI, unless it was. Gives this process's rank; -1 if threads may not ask in turns. */
int fugaku_mpi_start(int* rank, int* size) {
  int started, level;
  MPI_Initialized(&started);
  int code = started ? MPI_Query_thread(&level)
                     : MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
  if (code) return code;
  if (level < MPI_THREAD_SERIALIZED) return -1;
  serialized = level == MPI_THREAD_SERIALIZED;
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  return MPI_Comm_size(MPI_COMM_WORLD, size);
}

int fugaku_mpi_stop(void) {
  int started, stopped;
  MPI_Initialized(&started);
  MPI_Finalized(&stopped);
  return started && !stopped ? MPI_Finalize() : 0;
}

/* Makes room for messages of their own; all processes have to ask for it together. */
int fugaku_mpi_open(void** room) {
  MPI_Comm* all = malloc(sizeof *all);
  if (!all) return 1;
  *room = all;
  enter();
  return leave(MPI_Comm_dup(MPI_COMM_WORLD, all));
}

int fugaku_mpi_send(void* room, const void* data, int bytes, int rank, int tag, void** request) {
  MPI_Request* sending = malloc(sizeof *sending);
  if (!sending) return 1;
  *request = sending;
  enter();
  return leave(MPI_Isend(data, bytes, MPI_BYTE, rank, tag, *(MPI_Comm*)room, sending));
}

int fugaku_mpi_receive(void* room, void* data, int bytes, int rank, int tag, void** request) {
  MPI_Request* receiving = malloc(sizeof *receiving);
  if (!receiving) return 1;
  *request = receiving;
  enter();
  return leave(MPI_Irecv(data, bytes, MPI_BYTE, rank, tag, *(MPI_Comm*)room, receiving));
}

/* Tells whether a request has been done; it is then no more. */
int fugaku_mpi_test(void* request, int* done) {
  enter();
  const int code = leave(MPI_Test((MPI_Request*)request, done, MPI_STATUS_IGNORE));
  if (*done) free(request);
  return code;
}

/* Gives a request up that will not be done any more. */
void fugaku_mpi_cancel(void* request) {
  enter();
  MPI_Cancel((MPI_Request*)request);
  MPI_Request_free((MPI_Request*)request);
  free(request);
  leave(0);
}
