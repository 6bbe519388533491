// How long a hit waits for the others at Envoy's shared data: the same mutex and the same copies, without Envoy.
//
// Of proxy-wasm-cpp-host, which is in Envoy, this is modelled (src/shared_data.{h,cc} and proxy_get_shared_data in
// src/exports.cc): one std::mutex for all VMs of the process, of glibc's kind, which does not spin; under it a look-up in
// a map by vm_id, one in a hash map by key, and a copy of the value into a std::string; after it a second copy into the
// VM's memory. A writer holds the same mutex. Not modelled: Envoy's tcmalloc (this takes the C library's malloc) and the
// call into the VM for the memory of the second copy, which happens outside of the mutex.
//
// `make bench PART=contention` builds and runs it: contention SECONDS-FOR-EACH-LINE.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <time.h>

namespace {

using Clock = std::chrono::steady_clock;

// docs/internals/design.md: a key holds up to eight answers of some 690 bytes; revocations and inactive answers are small.
constexpr int kKeys = 65536;
constexpr size_t kAnswer = 690;
constexpr size_t kSmall = 110;

class SharedData {
 public:
  struct Times {
    double waited = 0;  // in ns
    double held = 0;
    bool taken = false;
  };

  // `times` is null where reading a clock would cost more than what is measured.
  bool get(const std::string& vm_id, const std::string& key, std::string* value, Times* times) {
    Clock::time_point asked, had;
    if (times == nullptr) {
      mutex_.lock();
    } else {
      asked = Clock::now();
      times->taken = !mutex_.try_lock();
      if (times->taken) mutex_.lock();
      had = Clock::now();
    }
    bool found = false;
    auto map = data_.find(vm_id);
    if (map != data_.end()) {
      auto entry = map->second.find(key);
      if (entry != map->second.end()) {
        *value = entry->second.first;
        found = true;
      }
    }
    if (times != nullptr) {
      const auto done = Clock::now();
      times->waited = std::chrono::duration<double, std::nano>(had - asked).count();
      times->held = std::chrono::duration<double, std::nano>(done - had).count();
    }
    mutex_.unlock();
    return found;
  }

  void set(const std::string& vm_id, const std::string& key, const std::string& value) {
    std::lock_guard<std::mutex> lock(mutex_);
    data_[vm_id][key] = {value, ++cas_};
  }

 private:
  std::mutex mutex_;
  uint32_t cas_ = 0;
  std::map<std::string, std::unordered_map<std::string, std::pair<std::string, uint32_t>>> data_;
};

const std::string kVm = "matrix-edge-auth";
SharedData shared;
std::vector<std::string> keys;

// What a VM keeps of a value.
struct Memory {
  char bytes[16 * 1024];
};

bool read(const std::string& key, Memory* memory, SharedData::Times* times) {
  // A fresh string for every call, as the host has it.
  std::string value;
  const bool found = shared.get(kVm, key, &value, times);
  std::memcpy(memory->bytes, value.data(), std::min(value.size(), sizeof memory->bytes));
  return found;
}

double cpu_seconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// Runs `work(thread, memory)` on as many threads until the time is over; returns how often in all.
template <typename Work>
uint64_t on_threads(int threads, double seconds, Work work) {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> calls{0};
  std::vector<std::thread> all;
  for (int thread = 0; thread < threads; ++thread) {
    all.emplace_back([&, thread] {
      auto memory = std::make_unique<Memory>();
      uint64_t done = 0;
      std::minstd_rand chance(static_cast<unsigned>(thread + 1));
      while (!stop.load(std::memory_order_relaxed)) {
        work(thread, chance, memory.get());
        ++done;
      }
      calls += done;
    });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (auto& thread : all) thread.join();
  return calls;
}

const std::string& any(std::minstd_rand& chance) { return keys[chance() % keys.size()]; }

void fill(size_t answers) {
  const std::string value(answers * kAnswer, 'x');
  for (const auto& key : keys) shared.set(kVm, key, value);
}

// One thread: what a call takes when nobody else wants the mutex.
double alone(const char* what, double seconds, const std::function<void(std::minstd_rand&, Memory*)>& call) {
  const double before = cpu_seconds();
  const uint64_t calls =
      on_threads(1, seconds, [&](int, std::minstd_rand& chance, Memory* memory) { call(chance, memory); });
  const double nanos = (cpu_seconds() - before) * 1e9 / static_cast<double>(calls);
  std::printf("| %s | %.0f |\n", what, nanos);
  return nanos;
}

// As many threads as want to, back to back: the most that the mutex lets through.
void flat_out(double seconds) {
  std::printf("\n| threads, back to back | calls/s, all together | CPU per call, ns |\n|--:|--:|--:|\n");
  for (int threads = 1; threads <= 64; threads *= 2) {
    const double before = cpu_seconds();
    const uint64_t calls = on_threads(
        threads, seconds, [](int, std::minstd_rand& chance, Memory* memory) { read(any(chance), memory, nullptr); });
    const double nanos = (cpu_seconds() - before) * 1e9 / static_cast<double>(calls);
    std::printf("| %d | %.0f | %.0f |\n", threads, static_cast<double>(calls) / seconds, nanos);
  }
}

struct Seen {
  double calls_per_second, taken, held, mean, p99;
};

// Calls at a rate, from 64 threads who know nothing of each other; each has its moment, whatever became of those before.
Seen at_rate(double rate, double seconds) {
  constexpr int kThreads = 64;
  std::mutex mutex;
  std::vector<float> waited, held;
  uint64_t taken = 0;
  const auto begun = Clock::now();
  const auto late = begun + std::chrono::duration<double>(2 * seconds);
  std::vector<std::thread> all;
  for (int thread = 0; thread < kThreads; ++thread) {
    all.emplace_back([&, thread] {
      auto memory = std::make_unique<Memory>();
      std::minstd_rand chance(static_cast<unsigned>(thread + 1));
      std::exponential_distribution<double> gap(rate / kThreads);
      std::vector<float> my_waited, my_held;
      uint64_t my_taken = 0;
      for (double due = gap(chance); due < seconds; due += gap(chance)) {
        const auto moment = begun + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due));
        if (Clock::now() < moment) std::this_thread::sleep_until(moment);
        // The machine cannot make so many.
        if (Clock::now() > late) break;
        SharedData::Times times;
        read(any(chance), memory.get(), &times);
        my_waited.push_back(static_cast<float>(times.waited));
        my_held.push_back(static_cast<float>(times.held));
        my_taken += times.taken;
      }
      std::lock_guard<std::mutex> lock(mutex);
      waited.insert(waited.end(), my_waited.begin(), my_waited.end());
      held.insert(held.end(), my_held.begin(), my_held.end());
      taken += my_taken;
    });
  }
  for (auto& thread : all) thread.join();
  const double took = std::chrono::duration<double>(Clock::now() - begun).count();
  const double count = static_cast<double>(waited.size());
  double sum = 0;
  for (const float each : waited) sum += each;
  std::sort(waited.begin(), waited.end());
  std::sort(held.begin(), held.end());
  return {count / took, 100.0 * static_cast<double>(taken) / count, held[held.size() / 2], sum / count,
          waited[static_cast<size_t>(count * 0.99)]};
}

// Several passes over all rates, of which the medians count: a thread that loses its processor while it has the mutex
// makes all others wait for milliseconds.
void at_rates(double seconds) {
  constexpr int kPasses = 5;
  const std::vector<double> rates = {10e3, 20e3, 50e3, 100e3, 200e3, 400e3, 800e3};
  std::vector<std::vector<Seen>> seen(rates.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    for (size_t at = 0; at < rates.size(); ++at) seen[at].push_back(at_rate(rates[at], seconds / kPasses));
  }
  std::printf("\n| calls/s wanted, of 64 threads | made | found it taken | under the mutex, median, ns | waited, mean, ns | "
              "waited, p99, ns |\n|--:|--:|--:|--:|--:|--:|\n");
  // The lowest rate from which on calls wait longer.
  double waits_from = 0;
  for (size_t at = 0; at < rates.size(); ++at) {
    const auto median = [&](double Seen::*part) {
      std::vector<double> values;
      for (const auto& each : seen[at]) values.push_back(each.*part);
      std::sort(values.begin(), values.end());
      return values[values.size() / 2];
    };
    const double held = median(&Seen::held), mean = median(&Seen::mean);
    std::printf("| %.0f | %.0f | %.2f %% | %.0f | %.0f | %.0f |\n", rates[at], median(&Seen::calls_per_second),
                median(&Seen::taken), held, mean, median(&Seen::p99));
    if (mean <= held) waits_from = 0;
    if (mean > held && waits_from == 0) waits_from = rates[at];
  }
  if (waits_from == 0) {
    std::printf("\nAt none of these rates a call waits longer than it works under the mutex.\n");
  } else {
    std::printf("\nFrom %.0f calls/s on a call waits longer than it works under the mutex, on the processors of this "
                "machine: %u.\n", waits_from, std::thread::hardware_concurrency());
  }
}

// What a queue with one server and equal services says (M/D/1) of workers that each have a processor. A hit that is not
// in the worker's own cache reads one key (tests/lean.rs counts the calls). `held` is all that the call takes, the second
// copy included, so the mutex can do a little better.
void on_paper(const char* what, double held) {
  std::printf("\n| %s: %.0f ns under the mutex for the call of a hit | shared hits/s in all | of each of 64 workers |\n"
              "|---|--:|--:|\n", what, held);
  const auto line = [&](const char* when, double load) {
    const double hits = load * 1e9 / held;
    std::printf("| %s | %.0f | %.0f |\n", when, hits, hits / 64);
  };
  // The mean wait of M/D/1 is load / (2 (1 - load)) services.
  line("a hit waits a tenth of what it works there", 1.0 / 6);
  line("a hit waits as long as it works there", 2.0 / 3);
  line("the mutex is full", 1.0);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1.0;
  for (int key = 0; key < kKeys; ++key) keys.push_back("a." + std::to_string(key));
  shared.set(kVm, "small", std::string(kSmall, 'x'));
  std::printf("\n| one thread | CPU per call, ns |\n|---|--:|\n");
  alone("a key that is not there", seconds, [](std::minstd_rand&, Memory* memory) {
    read("nothing", memory, nullptr);
  });
  alone("a small value, always the same", seconds, [](std::minstd_rand&, Memory* memory) {
    read("small", memory, nullptr);
  });
  const auto read_any = [](std::minstd_rand& chance, Memory* memory) { read(any(chance), memory, nullptr); };
  fill(1);
  alone("a key with one answer, of 65,536 in turn", seconds, read_any);
  fill(8);
  const double full = alone("a key with eight answers, of 65,536 in turn", seconds, read_any);
  fill(2);
  const double usual = alone("a key with two answers, of 65,536 in turn", seconds, read_any);
  flat_out(seconds);
  at_rates(seconds);
  on_paper("two answers to a key", usual);
  on_paper("eight", full);
}
