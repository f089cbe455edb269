// The kernel of the selective scan, written once over a vector type V; each scan_*.cpp defines V for its instruction set in
// an unnamed namespace, and includes this file there. No header may be included here: see scan_avx512.cpp.
//
// A vector holds V::W neighbouring channels at one state index. So the recurrence needs no sum across lanes, B and C are
// broadcast, any n is served without padding, and only grad_B and grad_C are sums over channels: they are gathered as
// vectors over all blocks of channels and summed across lanes once a chunk.

using T = V::type;

// Reads and writes the lanes that exist: all of them, or the first `lanes` in the last block.
template <bool Tail>
inline T load(const float* p, int lanes) {
  return Tail ? V::load_some(p, lanes) : V::load(p);
}
template <bool Tail>
inline void store(float* p, T x, int lanes) {
  if (Tail)
    V::store_some(p, x, lanes);
  else
    V::store(p, x);
}

struct Row {  // a (step, channel) or (step, state) operand at the first step of a chunk, in the order of the scan
  const float* p;
  int64_t by;
};

inline Row row(const Strided& x, int64_t batch, int64_t first_step, const ScanShape& s) {
  return {x.data + batch * x.batch + first_step * x.step, s.reverse ? -x.step : x.step};
}

inline int64_t time_of(const ScanShape& s, int64_t position) { return s.reverse ? s.t - 1 - position : position; }

// W vectors of W lanes, rows against columns. Riffling the upper half of the rows into the lower one moves the highest bit of
// the row's number to the lowest of the lane's; once for each bit, and they have changed places.
inline void transpose(T* rows) {
  for (int stage = 1; stage < V::W; stage *= 2) {
    T next[V::W];
    for (int i = 0; i < V::W / 2; ++i) V::riffle(rows[i], rows[i + V::W / 2], next[2 * i], next[2 * i + 1]);
    for (int i = 0; i < V::W; ++i) rows[i] = next[i];
  }
}

// From (d, n) rows of the caller's to (n, width), times `scale`, and back.
inline void pack(const float* rows, int64_t n, int lanes, float scale, float* out) {
  int64_t k = 0;
  for (; lanes == V::W && n - k >= V::W; k += V::W) {
    T tile[V::W];
    for (int i = 0; i < V::W; ++i) tile[i] = V::load(rows + i * n + k);
    transpose(tile);
    for (int i = 0; i < V::W; ++i) V::store(out + (k + i) * V::W, V::mul(tile[i], V::set1(scale)));
  }
  for (; k < n; ++k)
    for (int i = 0; i < V::W; ++i) out[k * V::W + i] = i < lanes ? rows[i * n + k] * scale : 0.0f;
}
inline void unpack(const float* packed, int64_t n, int lanes, float* rows) {
  int64_t k = 0;
  for (; lanes == V::W && n - k >= V::W; k += V::W) {
    T tile[V::W];
    for (int i = 0; i < V::W; ++i) tile[i] = V::load(packed + (k + i) * V::W);
    transpose(tile);
    for (int i = 0; i < V::W; ++i) V::store(rows + i * n + k, tile[i]);
  }
  for (int i = 0; i < lanes; ++i)
    for (int64_t j = k; j < n; ++j) rows[i * n + j] = packed[j * V::W + i];
}
inline void clear(float* vectors, int64_t floats) {
  for (int64_t i = 0; i < floats; i += V::W) V::store(vectors + i, V::zero());
}
inline void copy(const float* from, int64_t floats, float* to) {
  for (int64_t i = 0; i < floats; i += V::W) V::store(to + i, V::load(from + i));
}
inline int lanes_of(const ScanShape& s, int64_t block) {
  const int64_t left = s.d - block * V::W;
  return left < V::W ? int(left) : V::W;
}

// States [0, N) of one block over the steps of one chunk.
template <int N, bool Tail>
void forward_pass(Row u, Row delta, Row B, Row C, const float* A, const float* D, bool first, float* h_memory, float* y,
                  int64_t y_by, int64_t steps, int lanes) {
  T h[N];
  for (int k = 0; k < N; ++k) h[k] = V::load(h_memory + k * V::W);
  const T direct = D != nullptr && first ? load<Tail>(D, lanes) : V::zero();
  for (int64_t s = 0; s < steps; ++s) {
    const T step = load<Tail>(delta.p, lanes), x = load<Tail>(u.p, lanes);
    const T driven = V::mul(step, x);
    T sum0 = first ? V::mul(direct, x) : load<Tail>(y, lanes), sum1 = V::zero();
    for (int k = 0; k < N; ++k) {
      const T decay = V::exp2(V::mul(step, V::load(A + k * V::W)));
      h[k] = V::fma(decay, h[k], V::mul(driven, V::set1(B.p[k])));
      T& sum = k % 2 ? sum1 : sum0;
      sum = V::fma(h[k], V::set1(C.p[k]), sum);
    }
    store<Tail>(y, V::add(sum0, sum1), lanes);
    u.p += u.by, delta.p += delta.by, B.p += B.by, C.p += C.by, y += y_by;
  }
  for (int k = 0; k < N; ++k) V::store(h_memory + k * V::W, h[k]);
}

template <bool Tail>
void forward_chunk(Row u, Row delta, Row B, Row C, const float* A, const float* D, float* h, float* y, int64_t y_by,
                   int64_t steps, int64_t n, int lanes) {
  int64_t k = 0;
  auto pass = [&](auto size) {
    constexpr int N = decltype(size)::value;
    for (; n - k >= N; k += N)
      forward_pass<N, Tail>(u, delta, {B.p + k, B.by}, {C.p + k, C.by}, A + k * V::W, D, k == 0, h + k * V::W, y, y_by,
                            steps, lanes);
  };
  if constexpr (V::FORWARD >= 8) pass(Size<8>{});
  pass(Size<4>{}), pass(Size<2>{}), pass(Size<1>{});
}

int64_t forward_scratch(const ScanShape& s, int64_t blocks) { return 2 * blocks * s.n * V::W; }

void forward(const ScanForward& a, const ScanPart& part, float* scratch) {
  const ScanShape& s = a.shape;
  const int64_t panel = s.n * V::W, blocks = part.last - part.first;
  float *A = scratch, *states = scratch + blocks * panel;
  for (int64_t i = 0, block = part.first; i < blocks; ++i, ++block)
    pack(a.A + block * V::W * s.n, s.n, lanes_of(s, block), log2_e, A + i * panel);
  for (int64_t batch = part.first_row; batch < part.last_row; ++batch) {
    if (a.state == nullptr) clear(states, blocks * panel);
    for (int64_t i = 0, block = part.first; i < blocks && a.state != nullptr; ++i, ++block)
      pack(a.state + (batch * s.d + block * V::W) * s.n, s.n, lanes_of(s, block), 1.0f, states + i * panel);
    for (int64_t chunk = 0; chunk < s.chunks(); ++chunk) {
      const int64_t position = chunk * s.chunk, t = time_of(s, position);
      const int64_t steps = s.t - position < s.chunk ? s.t - position : s.chunk;
      const Row B = row(a.B, batch, t, s), C = row(a.C, batch, t, s);
      Row u = row(a.u, batch, t, s), delta = row(a.delta, batch, t, s);
      u.p += part.first * V::W, delta.p += part.first * V::W;
      if (a.starts != nullptr && chunk > 0)
        copy(states, blocks * panel, a.starts + (((chunk - 1) * s.b + batch) * s.blocks() + part.first) * panel);
      for (int64_t i = 0, block = part.first; i < blocks; ++i, ++block, u.p += V::W, delta.p += V::W) {
        const int lanes = lanes_of(s, block);
        const float* D = a.D == nullptr ? nullptr : a.D + block * V::W;
        float* y = a.y + (batch * s.t + t) * s.d + block * V::W;
        (lanes < V::W ? forward_chunk<true> : forward_chunk<false>)(
            u, delta, B, C, A + i * panel, D, states + i * panel, y, s.reverse ? -s.d : s.d, steps, s.n, lanes);
      }
    }
    for (int64_t i = 0, block = part.first; i < blocks; ++i, ++block)
      unpack(states + i * panel, s.n, lanes_of(s, block), a.last + (batch * s.d + block * V::W) * s.n);
  }
}

// The states of a chunk again: decays (step, n, width), and states (step + 1, n, width), of which the first is given.
template <int N, bool Tail>
void states_pass(Row u, Row delta, Row B, const float* A, float* decays, float* states, int64_t panel, int64_t steps,
                 int lanes) {
  T h[N];
  for (int k = 0; k < N; ++k) h[k] = V::load(states + k * V::W);
  for (int64_t s = 0; s < steps; ++s) {
    states += panel;
    const T step = load<Tail>(delta.p, lanes);
    const T driven = V::mul(step, load<Tail>(u.p, lanes));
    for (int k = 0; k < N; ++k) {
      const T decay = V::exp2(V::mul(step, V::load(A + k * V::W)));
      h[k] = V::fma(decay, h[k], V::mul(driven, V::set1(B.p[k])));
      V::store(decays + k * V::W, decay);
      V::store(states + k * V::W, h[k]);
    }
    u.p += u.by, delta.p += delta.by, B.p += B.by, decays += panel;
  }
}

struct Sums {  // of one block and chunk: vectors by (step, n), and by step
  float *B, *C, *driven, *step;
};

// Rows stand at the last step of the chunk; the gradient of the state goes from there to the first.
template <int N, bool Tail>
void backward_pass(Row u, Row delta, Row grad_y, Row B, Row C, const float* A, const float* decays, const float* states,
                   int64_t panel, float* carried, float* grad_A, Sums sums, bool first, int64_t steps, int lanes) {
  T carry[N], of_A[N];
  for (int k = 0; k < N; ++k) carry[k] = V::load(carried + k * V::W), of_A[k] = V::load(grad_A + k * V::W);
  for (int64_t s = steps - 1; s >= 0; --s) {
    const T gy = load<Tail>(grad_y.p, lanes), step = load<Tail>(delta.p, lanes);
    const T driven = V::mul(step, load<Tail>(u.p, lanes));
    T of_driven = first ? V::zero() : V::load(sums.driven + s * V::W);
    T of_step = first ? V::zero() : V::load(sums.step + s * V::W);
    const float *decay = decays + s * panel, *before = states + s * panel, *after = before + panel;
    float *sum_B = sums.B + s * panel, *sum_C = sums.C + s * panel;
    for (int k = 0; k < N; ++k) {
      const int at = k * V::W;
      const T g = V::fma(gy, V::set1(C.p[k]), carry[k]);  // gradient of the state after this step
      V::store(sum_C + at, V::fma(gy, V::load(after + at), V::load(sum_C + at)));
      V::store(sum_B + at, V::fma(driven, g, V::load(sum_B + at)));
      of_driven = V::fma(g, V::set1(B.p[k]), of_driven);
      carry[k] = V::mul(g, V::load(decay + at));
      const T exponent = V::mul(carry[k], V::load(before + at));  // gradient of delta * A
      of_A[k] = V::fma(exponent, step, of_A[k]);
      of_step = V::fma(exponent, V::load(A + at), of_step);
    }
    V::store(sums.driven + s * V::W, of_driven);
    V::store(sums.step + s * V::W, of_step);
    u.p -= u.by, delta.p -= delta.by, grad_y.p -= grad_y.by, B.p -= B.by, C.p -= C.by;
  }
  for (int k = 0; k < N; ++k) V::store(carried + k * V::W, carry[k]), V::store(grad_A + k * V::W, of_A[k]);
}

struct Block {  // what backward_chunk needs of one block of channels in one chunk
  Row u, delta, grad_y, B, C;
  const float *A, *D;  // A times log2(e)
  float *decays, *states, *carried, *grad_A, *grad_D, *grad_u, *grad_delta;
  int64_t out_by;  // of grad_u and grad_delta
  Sums sums;
};

inline Row at(Row x, int64_t step) { return {x.p + step * x.by, x.by}; }

template <bool Tail>
void backward_chunk(const Block& x, int64_t steps, int64_t n, int lanes) {
  const int64_t panel = n * V::W, end = steps - 1;
  int64_t k = 0;
  auto again = [&](auto size) {
    constexpr int N = decltype(size)::value;
    for (; n - k >= N; k += N)
      states_pass<N, Tail>(x.u, x.delta, {x.B.p + k, x.B.by}, x.A + k * V::W, x.decays + k * V::W, x.states + k * V::W,
                           panel, steps, lanes);
  };
  if constexpr (V::FORWARD >= 8) again(Size<8>{});
  again(Size<4>{}), again(Size<2>{}), again(Size<1>{});
  k = 0;
  const Row B = at(x.B, end), C = at(x.C, end);
  auto back = [&](auto size) {
    constexpr int N = decltype(size)::value;
    for (; n - k >= N; k += N) {
      const int64_t o = k * V::W;
      backward_pass<N, Tail>(at(x.u, end), at(x.delta, end), at(x.grad_y, end), {B.p + k, B.by}, {C.p + k, C.by},
                             x.A + o, x.decays + o, x.states + o, panel, x.carried + o, x.grad_A + o,
                             {x.sums.B + o, x.sums.C + o, x.sums.driven, x.sums.step}, k == 0, steps, lanes);
    }
  };
  if constexpr (V::BACKWARD >= 8) back(Size<8>{});
  back(Size<4>{}), back(Size<2>{}), back(Size<1>{});
  const T direct = x.D == nullptr ? V::zero() : load<Tail>(x.D, lanes);
  T of_D = V::zero();
  for (int64_t s = 0; s < steps; ++s) {
    const T u = load<Tail>(at(x.u, s).p, lanes), step = load<Tail>(at(x.delta, s).p, lanes);
    const T gy = load<Tail>(at(x.grad_y, s).p, lanes), of_driven = V::load(x.sums.driven + s * V::W);
    store<Tail>(x.grad_u + s * x.out_by, V::fma(of_driven, step, V::mul(direct, gy)), lanes);
    const T of_step = V::mul(V::load(x.sums.step + s * V::W), V::set1(1.0f / log2_e));
    store<Tail>(x.grad_delta + s * x.out_by, V::fma(of_driven, u, of_step), lanes);
    of_D = V::fma(gy, u, of_D);
  }
  if (x.grad_D != nullptr) V::store(x.grad_D, V::add(V::load(x.grad_D), of_D));
}

int64_t backward_scratch(const ScanShape& s, int64_t blocks) {
  const int64_t steps = s.t < s.chunk ? s.t : s.chunk;
  return (2 * blocks * s.n + (4 * steps + 1) * s.n + 2 * steps) * V::W;
}

void backward(const ScanBackward& a, const ScanPart& part, float* scratch) {
  const ScanShape& s = a.shape;
  const int64_t panel = s.n * V::W, longest = s.t < s.chunk ? s.t : s.chunk, blocks = part.last - part.first;
  float *A = scratch, *all_carried = A + blocks * panel;
  Block x;
  x.decays = all_carried + blocks * panel;
  x.states = x.decays + longest * panel;
  x.sums.B = x.states + (longest + 1) * panel;
  x.sums.C = x.sums.B + longest * panel;
  x.sums.driven = x.sums.C + longest * panel;
  x.sums.step = x.sums.driven + longest * V::W;
  x.out_by = s.reverse ? -s.d : s.d;
  for (int64_t i = 0, block = part.first; i < blocks; ++i, ++block)
    pack(a.A + block * V::W * s.n, s.n, lanes_of(s, block), log2_e, A + i * panel);
  float* part_A = a.grad_A + (part.rows * s.blocks() + part.first) * panel;
  float* part_D = a.grad_D == nullptr ? nullptr : a.grad_D + (part.rows * s.blocks() + part.first) * V::W;
  clear(part_A, blocks * panel);
  if (part_D != nullptr) clear(part_D, blocks * V::W);
  for (int64_t batch = part.first_row; batch < part.last_row; ++batch) {
    if (a.grad_last == nullptr) clear(all_carried, blocks * panel);
    for (int64_t i = 0, block = part.first; i < blocks && a.grad_last != nullptr; ++i, ++block)
      pack(a.grad_last + (batch * s.d + block * V::W) * s.n, s.n, lanes_of(s, block), 1.0f, all_carried + i * panel);
    for (int64_t chunk = s.chunks() - 1; chunk >= 0; --chunk) {
      const int64_t position = chunk * s.chunk, t = time_of(s, position);
      const int64_t steps = s.t - position < s.chunk ? s.t - position : s.chunk;
      clear(x.sums.B, steps * panel), clear(x.sums.C, steps * panel);
      x.B = row(a.B, batch, t, s), x.C = row(a.C, batch, t, s);
      for (int64_t i = 0, block = part.first; i < blocks; ++i, ++block) {
        const int64_t channel = block * V::W;
        const int lanes = lanes_of(s, block);
        x.u = row(a.u, batch, t, s), x.delta = row(a.delta, batch, t, s), x.grad_y = row(a.grad_y, batch, t, s);
        x.u.p += channel, x.delta.p += channel, x.grad_y.p += channel;
        x.A = A + i * panel, x.D = a.D == nullptr ? nullptr : a.D + channel;
        x.carried = all_carried + i * panel, x.grad_A = part_A + i * panel;
        x.grad_D = part_D == nullptr ? nullptr : part_D + i * V::W;
        x.grad_u = a.grad_u + (batch * s.t + t) * s.d + channel;
        x.grad_delta = a.grad_delta + (batch * s.t + t) * s.d + channel;
        if (chunk > 0)
          copy(a.starts + (((chunk - 1) * s.b + batch) * s.blocks() + block) * panel, panel, x.states);
        else if (a.state != nullptr)
          pack(a.state + (batch * s.d + channel) * s.n, s.n, lanes, 1.0f, x.states);
        else
          clear(x.states, panel);
        (lanes < V::W ? backward_chunk<true> : backward_chunk<false>)(x, steps, s.n, lanes);
      }
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t out = ((part.group * s.b + batch) * s.t + time_of(s, position + step)) * s.n;
        for (int64_t k = 0; k < s.n; ++k) {
          a.grad_B[out + k] = V::sum(V::load(x.sums.B + step * panel + k * V::W));
          a.grad_C[out + k] = V::sum(V::load(x.sums.C + step * panel + k * V::W));
        }
      }
    }
    for (int64_t i = 0, block = part.first; i < blocks && a.grad_state != nullptr; ++i, ++block)
      unpack(all_carried + i * panel, s.n, lanes_of(s, block), a.grad_state + (batch * s.d + block * V::W) * s.n);
  }
}

void unpack_all(const ScanShape& s, const float* packed, float* rows) {
  for (int64_t block = 0; block < s.blocks(); ++block)
    unpack(packed + block * s.n * V::W, s.n, lanes_of(s, block), rows + block * V::W * s.n);
}

float multiply_add(int64_t rounds, float by) {
  T x[12];
  for (int i = 0; i < 12; ++i) x[i] = V::set1(float(i));
  const T factor = V::set1(by);
  for (; rounds > 0; --rounds)
    for (int i = 0; i < 12; ++i) x[i] = V::fma(x[i], factor, factor);
  for (int i = 1; i < 12; ++i) x[0] = V::add(x[0], x[i]);
  return V::sum(x[0]);
}
