// What is not compiled once per real type.
#include "view.h"

std::atomic<int64_t> s4::live_views{0};

extern "C" int64_t s4_live_views() { return s4::live_views; }
