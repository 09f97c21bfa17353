/* The phases that take whole rows: embedding, norms, rounding. */
#include <math.h>
#include <string.h>

#include "bf16.h"
#include "float16.h"
#include "transformer_state.h"

static void embed_q8_0(const void *embedding, int32_t token_id, int32_t width, float *out)
{
    const size_t block_bytes = sizeof(float16) + GROUP_SIZE;
    int32_t num_blocks = width / GROUP_SIZE;
    const char *block =
        (const char *)embedding + (size_t)token_id * (size_t)num_blocks * block_bytes;
    for (int32_t i = 0; i < num_blocks; i++, block += block_bytes) {
        float16 scale;
        memcpy(&scale, block, sizeof scale);
        const int8_t *codes = (const int8_t *)block + sizeof scale;
        for (int32_t j = 0; j < GROUP_SIZE; j++)
            out[i * GROUP_SIZE + j] = float16_to_float(scale) * (float)codes[j];
    }
}

static void embed(const struct transformer_weights *weights, int32_t token_id, float *out)
{
    int32_t width = weights->shape.hidden_size;
    size_t first = (size_t)token_id * (size_t)width;
    switch (weights->embedding_format) {
    case EMBEDDING_F32:
        memcpy(out, (const float *)weights->embedding + first, (size_t)width * sizeof(float));
        break;
    case EMBEDDING_BF16:
        for (int32_t i = 0; i < width; i++)
            out[i] = bf16_to_float(((const bf16 *)weights->embedding)[first + (size_t)i]);
        break;
    case EMBEDDING_Q8_0:
        embed_q8_0(weights->embedding, token_id, width, out);
        break;
    }
}

static void compute_rotation(const struct transformer *this, int32_t row)
{
    const struct transformer_shape *shape = &this->weights.shape;
    int32_t num_angles = shape->head_dim / 2;
    float *cosines = row_of(this->cosines, row, num_angles);
    float *sines = row_of(this->sines, row, num_angles);
    for (int32_t i = 0; i < num_angles; i++) {
        float angle = (float)this->positions[row] * this->weights.rotary_frequencies[i];
        cosines[i] = cosf(angle) * shape->rotary_scale;
        sines[i] = sinf(angle) * shape->rotary_scale;
    }
}

/* The rows of some chunks. */
static struct chunks rows_of(struct chunks chunks, int32_t num_rows)
{
    int32_t first = chunks.first * CHUNK_ROWS;
    int32_t end = lesser((chunks.first + chunks.count) * CHUNK_ROWS, num_rows);
    return (struct chunks){.first = first, .count = end - first};
}

void embed_rows(void *context, struct chunks chunks, int32_t member)
{
    struct transformer *this = context;
    const struct step *step = this->step;
    struct chunks rows = rows_of(chunks, step->num_rows);
    (void)member;
    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        float *hidden = row_of(this->hidden, row, this->weights.shape.hidden_size);
        embed(&this->weights, step->token_ids[row], hidden);
        compute_rotation(this, row);
    }
}

void normalize_rows(void *context, struct chunks chunks, int32_t member)
{
    struct transformer *this = context;
    const struct transformer_shape *shape = &this->weights.shape;
    float *normalized = scratch_of(this, member);
    struct chunks rows = rows_of(chunks, this->num_selected);
    for (int32_t i = rows.first; i < rows.first + rows.count; i++) {
        int32_t row = this->selected_rows == NULL ? i : this->selected_rows[i];
        const float *hidden = row_of(this->hidden, row, shape->hidden_size);
        this->ops->rms_norm(hidden, this->norm, shape->rms_norm_epsilon, shape->hidden_size,
                            normalized);
        this->ops->store[this->rounding](&this->inputs, i, 0, normalized, shape->hidden_size);
    }
}

void store_attended_rows(void *context, struct chunks chunks, int32_t member)
{
    struct transformer *this = context;
    int32_t width = queries_width(&this->weights.shape);
    struct chunks rows = rows_of(chunks, this->num_selected);
    (void)member;
    for (int32_t row = rows.first; row < rows.first + rows.count; row++)
        this->ops->store[this->rounding](&this->inputs, row, 0, row_of(this->attended, row, width),
                                         width);
}
