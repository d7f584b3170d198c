#include "layer_table.h"
