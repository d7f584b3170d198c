#include "heatmap_table.h"
