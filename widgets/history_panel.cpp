#include "history_panel.h"
