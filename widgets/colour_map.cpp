#include "colour_map.h"
