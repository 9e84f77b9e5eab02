// The command line of the four programs: docs/runner.md has the table.
#pragma once

#include <stdexcept>
#include <string>

#include "engine.h"

struct FlagError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The order that the command line gives. FlagError says which flag is wrong, and what it takes.
Order parse_flags(int count, char** words);
