/* The dense CRF on a CPU: simplices, points and neighbours of a permutohedral lattice, filtering, mean-field steps.
 *
 * Called by compiled.py, which checks what is passed. The arithmetic is that of permutohedral.py and mean_field.py;
 * what is said there is not said again. Tables have rows of four floats. Sums are taken in an order that hangs on the
 * picture alone, and no instruction is used that only some processors of a kind have: bits are the same on all.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MOST_AXES 9 /* of eight features */
#define DIGIT 11
#define INLINE static inline __attribute__((always_inline))

typedef float row __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t whole_row __attribute__((vector_size(16)));

/* ---- the lattice ---- */

INLINE void place(int64_t d, const float *lifted, float down, float *near, int *rank) {
    float away[MOST_AXES];
    int sum = 0;
    for (int64_t i = 0; i <= d; i++) {
        int n = (int)lrintf(lifted[i] * down);
        near[i] = (float)n;
        away[i] = lifted[i] - near[i] * (float)(d + 1);
        sum += n;
    }
    for (int64_t i = 0; i <= d; i++) rank[i] = sum;
    for (int64_t i = 0; i <= d; i++)
        for (int64_t j = i + 1; j <= d; j++) {
            int less = away[i] < away[j];
            rank[i] += less;
            rank[j] += !less;
        }
    for (int64_t i = 0; i <= d; i++) {
        int turn = (rank[i] < 0) - (rank[i] > d);
        rank[i] += turn * (int)(d + 1);
        near[i] += (float)turn;
    }
}

/* Of each pixel: its nearest point of remainder 0 (a plane a coordinate), the way round its simplex's corners (a plane a
 * turn: which coordinate), its barycentric weights (a row a pixel). */
void simplices(int64_t d, int64_t pixels, const float *features, const float *scales, float down, int32_t *nearest,
               uint8_t *turns, float *weights) {
    for (int64_t p = 0; p < pixels; p++) {
        float lifted[MOST_AXES], near[MOST_AXES], ordered[MOST_AXES] = {0}, total = 0;
        int rank[MOST_AXES];
        for (int64_t j = d; j > 0; j--) {
            float part = features[(j - 1) * pixels + p] * scales[j - 1];
            lifted[j] = total - part * (float)j;
            total += part;
        }
        lifted[0] = total;
        place(d, lifted, down, near, rank);
        for (int64_t i = 0; i <= d; i++) {
            /* Within the row, whatever features overflow. */
            int64_t at = rank[i] < 0 ? d : rank[i] > d ? 0 : d - rank[i];
            ordered[at] = (lifted[i] - near[i] * (float)(d + 1)) * down;
            turns[at * pixels + p] = (uint8_t)i;
        }
        for (int64_t i = 0; i < d; i++) nearest[i * pixels + p] = (int32_t)near[i];
        weights[p * (d + 1)] = ordered[0] + (1 - ordered[d]);
        for (int64_t i = 1; i <= d; i++) weights[p * (d + 1) + i] = ordered[i] - ordered[i - 1];
    }
}

/* Keys of one remainder to those of the next. */
void turn(int64_t rows, const uint8_t *coordinates, const int64_t *steps, int64_t *keys) {
    for (int64_t r = 0; r < rows; r++) keys[r] -= steps[coordinates[r]];
}

/* Numbers (key and row in one) by their keys; equal ones keep their order. `spare` is as long. */
void sort(int64_t count, int64_t low_bit, int64_t high_bit, int64_t *numbers, int64_t *spare) {
    int64_t *from = numbers, *to = spare;
    for (int64_t bit = low_bit; bit < high_bit; bit += DIGIT) {
        int64_t begin[1 << DIGIT] = {0}, sum = 0;
        for (int64_t i = 0; i < count; i++) begin[(from[i] >> bit) & ((1 << DIGIT) - 1)]++;
        for (int64_t k = 0; k < 1 << DIGIT; k++) {
            int64_t many = begin[k];
            begin[k] = sum;
            sum += many;
        }
        for (int64_t i = 0; i < count; i++) to[begin[(from[i] >> bit) & ((1 << DIGIT) - 1)]++] = from[i];
        int64_t *other = from;
        from = to;
        to = other;
    }
    if (from != numbers) memcpy(numbers, from, (size_t)count * sizeof *numbers);
}

/* Sorted numbers to points of one remainder, numbered from `first`: their keys, and each row's point. How many. */
int64_t number(int64_t rows, int64_t row_bits, int64_t axes, int64_t remainder, int64_t first, const int64_t *numbers,
               int64_t *keys, int32_t *corners) {
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t key = numbers[i] >> row_bits, r = numbers[i] & ((1LL << row_bits) - 1);
        if (!count || keys[count - 1] != key) keys[count++] = key;
        corners[r * axes + remainder] = (int32_t)(first + count - 1);
    }
    return count;
}

/* Points of two remainders that are neighbours: key + step of one is the other's key. Both are sorted. */
void meet(int64_t count, const int64_t *keys, int64_t first, int64_t others, const int64_t *other_keys, int64_t other_first,
          int64_t step, int32_t *pairs) {
    for (int64_t i = 0, j = 0; i < count; i++) {
        int64_t wanted = keys[i] + step;
        while (j < others && other_keys[j] < wanted) j++;
        if (j == others) break;
        if (other_keys[j] == wanted) {
            pairs[2 * (first + i)] = (int32_t)(other_first + j);
            pairs[2 * (other_first + j) + 1] = (int32_t)(first + i);
        }
    }
}

/* ---- filtering ---- */

INLINE void splat(int64_t axes, int64_t rows, const int32_t *corners, const float *weights, const float *norm,
                  const row *table, row *values) {
    for (int64_t r = 0; r < rows; r++) {
        row value = table[r] * norm[r];
        for (int64_t k = 0; k < axes; k++) values[corners[r * axes + k]] += value * weights[r * axes + k];
    }
}

INLINE void slice(int64_t axes, int64_t rows, const int32_t *corners, const float *weights, const float *norm, float scale,
                  const row *values, row *total) {
    for (int64_t r = 0; r < rows; r++) {
        row sum = {0};
        for (int64_t k = 0; k < axes; k++) sum += values[corners[r * axes + k]] * weights[r * axes + k];
        total[r] += sum * (norm[r] * scale);
    }
}

/* A neighbour that is not there is the point behind the last one, which stays zero. */
static void blur(int64_t points, const int32_t *pairs, const row *from, row *to) {
    for (int64_t p = 0; p < points; p++) to[p] = from[p] + (from[pairs[2 * p]] + from[pairs[2 * p + 1]]) * 0.5f;
}

/* Adds the filtered table to `total`. `values` and `spare` have points + 1 rows. */
void filter(int64_t axes, int64_t rows, int64_t points, const int32_t *corners, const float *weights, const float *norm,
            const int32_t *pairs, float scale, const row *table, row *values, row *spare, row *total) {
    memset(values, 0, (size_t)(points + 1) * sizeof *values);
    spare[points] = values[points];
    switch (axes) { /* the loop over corners is unrolled where their number is known */
        case 3: splat(3, rows, corners, weights, norm, table, values); break;
        case 6: splat(6, rows, corners, weights, norm, table, values); break;
        default: splat(axes, rows, corners, weights, norm, table, values);
    }
    for (int64_t axis = 0; axis < axes; axis++) {
        blur(points, pairs + 2 * points * axis, values, spare);
        row *other = values;
        values = spare;
        spare = other;
    }
    switch (axes) {
        case 3: slice(3, rows, corners, weights, norm, scale, values, total); break;
        case 6: slice(6, rows, corners, weights, norm, scale, values, total); break;
        default: slice(axes, rows, corners, weights, norm, scale, values, total);
    }
}

/* ---- the mean field ---- */

INLINE float sum_of(row x) { return (x[0] + x[1]) + (x[2] + x[3]); }

/* e^x by the usual reduction and polynomial (Cephes), to two units in the last place; 0 below -87. */
INLINE row exponential(row x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole number */
    whole_row tiny = x < -87.0f, huge = x > 88.0f;
    row limited = (row)(((whole_row)x & ~huge) | ((whole_row)(row){88, 88, 88, 88} & huge));
    limited = (row)((whole_row)limited & ~tiny);
    row n = (limited * 1.44269504f + shift) - shift;
    row r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;
    row y = ((((r * 1.9875691500e-4f + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r
            + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    y *= (row)((__builtin_convertvector(n, whole_row) + 127) << 23);
    return (row)((whole_row)y & ~tiny);
}

/* In place; the sums of rows are added to `total`. */
void exponentials(int64_t rows, row *table, float *total) {
    for (int64_t r = 0; r < rows; r++) {
        table[r] = exponential(table[r]);
        total[r] += sum_of(table[r]);
    }
}

void divide(int64_t rows, row *table, const float *total) {
    for (int64_t r = 0; r < rows; r++) table[r] /= total[r];
}

/* 1 / (1 + e^-x), in place. */
void chances(int64_t rows, row *table) {
    for (int64_t r = 0; r < rows; r++) {
        whole_row negative = table[r] < 0.0f;
        row odds = exponential((row)((whole_row)table[r] | (whole_row)(row){-0.0f, -0.0f, -0.0f, -0.0f}));
        row greater = 1.0f / (1.0f + odds);
        table[r] = (row)(((whole_row)greater & ~negative) | ((whole_row)(odds * greater) & negative));
    }
}

/* Filtered Q to energies, where words compete: what all words have is missing from the background's. */
void compete(int64_t rows, row *table, const row *evidence, float *background) {
    for (int64_t r = 0; r < rows; r++) {
        background[r] -= sum_of(table[r]);
        table[r] += evidence[r];
    }
}

/* The same, where each word has a background of its own. */
void oppose(int64_t rows, row *table, const row *evidence, const float *ones) {
    for (int64_t r = 0; r < rows; r++) table[r] = table[r] * 2.0f - ones[r] + evidence[r];
}
