// What the kernel tells about this process: memory, core, clock. Unknown is null, never a guess.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// {"vm_hwm_kb": ..., ...} as JSON.
std::string memory_json();
// Lets the peak start again from what is resident now, where the kernel allows it.
void reset_peak();
int current_core();
// The clock of that core as JSON: MHz or null.
std::string mhz_json(int core);
// How often another process took the core so far.
int64_t preemptions();
// Stays on these cores from here on. Throws std::runtime_error if the system does not allow it.
void pin(const std::vector<int>& cores);
// The cores that this process may run on, as a hexadecimal mask.
std::string allowed_mask();

// Phases that a simulator can see from outside: a prctl() option that no kernel knows, which changes nothing.
enum class Mark { start = 1, loaded = 2, first = 3, run_begin = 4, run_end = 5, end = 6 };
void mark(Mark phase);
