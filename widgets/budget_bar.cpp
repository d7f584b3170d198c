#include "budget_bar.h"
