#include "turns.h"

int turns_init(struct turns *turns)
{
    turns->next_number = 0;
    turns->current_number = 0;
    int status = pthread_mutex_init(&turns->lock, NULL);
    if (status != 0)
        return status;
    status = pthread_cond_init(&turns->called, NULL);
    if (status != 0)
        pthread_mutex_destroy(&turns->lock);
    return status;
}

void turns_destroy(struct turns *turns)
{
    pthread_cond_destroy(&turns->called);
    pthread_mutex_destroy(&turns->lock);
}

void turns_begin(struct turns *turns)
{
    pthread_mutex_lock(&turns->lock);
    uint64_t number = turns->next_number++;
    while (turns->current_number != number)
        pthread_cond_wait(&turns->called, &turns->lock);
    pthread_mutex_unlock(&turns->lock);
}

void turns_end(struct turns *turns)
{
    pthread_mutex_lock(&turns->lock);
    turns->current_number++;
    pthread_cond_broadcast(&turns->called);
    pthread_mutex_unlock(&turns->lock);
}
