#include "perplexity_panel.h"
