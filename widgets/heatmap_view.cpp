#include "heatmap_view.h"
