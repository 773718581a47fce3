/* The dense CRF on a CPU: simplices, points and neighbours of a permutohedral lattice, filtering, mean-field steps.
 *
 * Called by compiled_arrays.py and compiled_lattice.py, which check the arguments. The arithmetic is that of
 * permutohedral.py and mean_field.py, which explain it. Tables have rows of four floats. The order of sums depends on the
 * image alone, and no instruction is used that only some processors of an architecture have: results are the same bits
 * on all.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_AXES 9 /* eight features */
#define DIGIT 11 /* bits of the radix sort */
#define INLINE static inline __attribute__((always_inline))

typedef float row __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t int_row __attribute__((vector_size(16)));

/* ---- the lattice ---- */

INLINE void nearest_point(int64_t d, const float *lifted, float down, float *near, int *rank) {
    float away[MAX_AXES];
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

/* Compute for each pixel: its nearest point of remainder 0 (a plane per coordinate), the path round the corners of its
 * simplex (a plane per turn: which coordinate), and its barycentric weights (a row per pixel). */
void simplices(int64_t d, int64_t pixels, const float *features, const float *scales, float down, int32_t *nearest,
               uint8_t *turns, float *weights) {
    for (int64_t p = 0; p < pixels; p++) {
        float lifted[MAX_AXES], near[MAX_AXES], ordered[MAX_AXES] = {0}, total = 0;
        int rank[MAX_AXES];
        for (int64_t j = d; j > 0; j--) {
            float part = features[(j - 1) * pixels + p] * scales[j - 1];
            lifted[j] = total - part * (float)j;
            total += part;
        }
        lifted[0] = total;
        nearest_point(d, lifted, down, near, rank);
        for (int64_t i = 0; i <= d; i++) {
            /* Clamped, so that features that overflow stay within the row. */
            int64_t at = rank[i] < 0 ? d : rank[i] > d ? 0 : d - rank[i];
            ordered[at] = (lifted[i] - near[i] * (float)(d + 1)) * down;
            turns[at * pixels + p] = (uint8_t)i;
        }
        for (int64_t i = 0; i < d; i++) nearest[i * pixels + p] = (int32_t)near[i];
        weights[p * (d + 1)] = ordered[0] + (1 - ordered[d]);
        for (int64_t i = 1; i <= d; i++) weights[p * (d + 1) + i] = ordered[i] - ordered[i - 1];
    }
}

/* Turn keys of one remainder into those of the next. */
void next_keys(int64_t rows, const uint8_t *coordinates, const int64_t *steps, int64_t *keys) {
    for (int64_t r = 0; r < rows; r++) keys[r] -= steps[coordinates[r]];
}

/* Radix sort of numbers (key and row in one) by their keys; equal keys keep their order. `spare` has the same length. */
void sort(int64_t count, int64_t low_bit, int64_t high_bit, int64_t *numbers, int64_t *spare) {
    int64_t *from = numbers, *to = spare;
    for (int64_t bit = low_bit; bit < high_bit; bit += DIGIT) {
        int64_t begin[1 << DIGIT] = {0}, sum = 0;
        for (int64_t i = 0; i < count; i++) begin[(from[i] >> bit) & ((1 << DIGIT) - 1)]++;
        for (int64_t k = 0; k < 1 << DIGIT; k++) {
            int64_t size = begin[k];
            begin[k] = sum;
            sum += size;
        }
        for (int64_t i = 0; i < count; i++) to[begin[(from[i] >> bit) & ((1 << DIGIT) - 1)]++] = from[i];
        int64_t *other = from;
        from = to;
        to = other;
    }
    if (from != numbers) memcpy(numbers, from, (size_t)count * sizeof *numbers);
}

/* Number the points of one remainder from `first`, given sorted numbers: write their keys and each row's point, and
 * return how many there are. */
int64_t number_points(int64_t rows, int64_t row_bits, int64_t axes, int64_t remainder, int64_t first,
                      const int64_t *numbers, int64_t *keys, int32_t *corners) {
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t key = numbers[i] >> row_bits, r = numbers[i] & ((1LL << row_bits) - 1);
        if (!count || keys[count - 1] != key) keys[count++] = key;
        corners[r * axes + remainder] = (int32_t)(first + count - 1);
    }
    return count;
}

/* Find neighbours among the points of two remainders: key + step of one is the other's key. Both are sorted. */
void find_neighbours(int64_t count, const int64_t *keys, int64_t first, int64_t others, const int64_t *other_keys,
                     int64_t other_first, int64_t step, int32_t *pairs) {
    for (int64_t i = 0, j = 0; i < count; i++) {
        int64_t neighbour = keys[i] + step;
        while (j < others && other_keys[j] < neighbour) j++;
        if (j == others) break;
        if (other_keys[j] == neighbour) {
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

/* A missing neighbour is the point behind the last one, which stays zero. */
static void blur(int64_t points, const int32_t *pairs, const row *from, row *to) {
    for (int64_t p = 0; p < points; p++) to[p] = from[p] + (from[pairs[2 * p]] + from[pairs[2 * p + 1]]) * 0.5f;
}

/* Add the filtered table to `total`. `values` and `spare` have points + 1 rows. */
void filter(int64_t axes, int64_t rows, int64_t points, const int32_t *corners, const float *weights, const float *norm,
            const int32_t *pairs, float scale, const row *table, row *values, row *spare, row *total) {
    memset(values, 0, (size_t)(points + 1) * sizeof *values);
    spare[points] = values[points];
    switch (axes) { /* the loop over corners is unrolled for these numbers */
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

/* e^x by the reduction and polynomial of Cephes, to two units in the last place; 0 below -87. */
INLINE row exponential(row x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    int_row tiny = x < -87.0f, huge = x > 88.0f;
    row limited = (row)(((int_row)x & ~huge) | ((int_row)(row){88, 88, 88, 88} & huge));
    limited = (row)((int_row)limited & ~tiny);
    row n = (limited * 1.44269504f + shift) - shift;
    row r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;
    row y = ((((r * 1.9875691500e-4f + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r
            + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    y *= (row)((__builtin_convertvector(n, int_row) + 127) << 23);
    return (row)((int_row)y & ~tiny);
}

/* Exponentiate in place and add the sums of rows to `total`. */
void exp_and_sum(int64_t rows, row *table, float *total) {
    for (int64_t r = 0; r < rows; r++) {
        table[r] = exponential(table[r]);
        total[r] += sum_of(table[r]);
    }
}

void divide_rows(int64_t rows, row *table, const float *total) {
    for (int64_t r = 0; r < rows; r++) table[r] /= total[r];
}

/* 1 / (1 + e^-x), in place. */
void sigmoid(int64_t rows, row *table) {
    for (int64_t r = 0; r < rows; r++) {
        int_row negative = table[r] < 0.0f;
        row odds = exponential((row)((int_row)table[r] | (int_row)(row){-0.0f, -0.0f, -0.0f, -0.0f}));
        row greater = 1.0f / (1.0f + odds);
        table[r] = (row)(((int_row)greater & ~negative) | ((int_row)(odds * greater) & negative));
    }
}

/* Filtered Q to energies, with labels that compete: the sum of all labels is subtracted from the background. */
void add_unary_multi(int64_t rows, row *table, const row *unary, float *background) {
    for (int64_t r = 0; r < rows; r++) {
        background[r] -= sum_of(table[r]);
        table[r] += unary[r];
    }
}

/* The same for labels with a background each. */
void add_unary_binary(int64_t rows, row *table, const row *unary, const float *filtered_ones) {
    for (int64_t r = 0; r < rows; r++) table[r] = table[r] * 2.0f - filtered_ones[r] + unary[r];
}
