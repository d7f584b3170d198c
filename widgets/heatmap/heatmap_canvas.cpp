// Mouse and keys of the heatmap.
#include "heatmap/heatmap_private.h"

#include <QContextMenuEvent>
#include <QHelpEvent>
#include <QKeyEvent>
#include <QMenu>
#include <QMouseEvent>
#include <QToolTip>

#include <algorithm>
#include <cmath>
#include <set>

namespace espalier
{

namespace
{
constexpr int kLockWidth = 22;  // of the lock's place beside a row's label
}  // namespace

HeatmapCanvas::HeatmapCanvas(HeatmapView::Private* owner, QWidget* parent) : QCustomPlot(parent), d(owner)
{
    setMouseTracking(true);
    setContextMenuPolicy(Qt::DefaultContextMenu);
}

void HeatmapCanvas::resizeEvent(QResizeEvent* event)
{
    d->layoutPlot();
    QCustomPlot::resizeEvent(event);
}

void HeatmapCanvas::mousePressEvent(QMouseEvent* event)
{
    setFocus(Qt::MouseFocusReason);
    if (event->button() != Qt::LeftButton) return;
    d->pressed = event->pos();
    d->boxing = false;
    d->armed = {};
    // A row's label selects its layer. A press never edits: it may have been meant to leave a text field.
    if (const int row = d->labelAt(event->pos()); row >= 0) {
        d->selection->setCurrentLayer(row);
        std::set<CellId> cells;
        for (int e = 0; e < d->expertsOf(row); ++e)
            cells.insert({row, e});
        d->selection->select(std::move(cells));
        d->pressed = QPoint(-1, -1);
        return;
    }
    const CellId cell = d->q->cellAt(event->position());
    if (!cell.valid()) {
        d->pressed = QPoint(-1, -1);
        return;
    }
    if (event->modifiers() & Qt::ControlModifier) {
        d->selection->setCurrent(cell);
        d->selection->toggle(cell);
        d->anchor = cell;
    } else if (event->modifiers() & Qt::ShiftModifier) {
        const CellId from = d->anchor.valid() ? d->anchor : d->selection->current();
        d->selection->setCurrent(cell);
        if (from.valid()) {
            const QPoint a(d->q->columnOf(from), from.layer);
            const QPoint b(d->q->columnOf(cell), cell.layer);
            d->selectBox(
                QRect(QPoint(std::min(a.x(), b.x()), std::min(a.y(), b.y())), QPoint(std::max(a.x(), b.x()), std::max(a.y(), b.y()))));
        }
    } else {
        d->armed = cell;  // a second press soon, on the same cell and without a drag between, toggles it
        d->anchor = cell;
        d->selection->clear();
        d->selection->setCurrent(cell);
    }
}

void HeatmapCanvas::mouseMoveEvent(QMouseEvent* event)
{
    const CellId cell = d->q->cellAt(event->position());
    d->hover->setHovered(cell);
    if (!(event->buttons() & Qt::LeftButton) || d->pressed.x() < 0) return;
    if (!d->boxing && (event->pos() - d->pressed).manhattanLength() < 6) return;
    d->boxing = true;
    d->armed = {};
    const auto clampPoint = [this](const QPoint& p) { return QPoint(d->columnAt(p.x()), d->rowAt(p.y())); };
    const QPoint a = clampPoint(d->pressed);
    const QPoint b = clampPoint(event->pos());
    d->box = QRect(QPoint(std::min(a.x(), b.x()), std::min(a.y(), b.y())), QPoint(std::max(a.x(), b.x()), std::max(a.y(), b.y())));
    d->selectBox(d->box);
}

void HeatmapCanvas::mouseReleaseEvent(QMouseEvent*)
{
    d->boxing = false;
    d->pressed = QPoint(-1, -1);
}

void HeatmapCanvas::mouseDoubleClickEvent(QMouseEvent* event)
{
    if (event->button() != Qt::LeftButton) return;
    const CellId first = d->armed;
    const int row = d->labelAt(event->pos());
    const bool lock = row >= 0 && event->pos().x() < pixelsOf(kLockWidth) && d->expertsOf(row) > 0;
    mousePressEvent(event);
    if (lock)
        emit d->q->lockRequested(row);
    else if (d->armed.valid() && d->armed == first)
        emit d->q->toggleRequested(first.layer, first.expert);
    d->armed = {};  // a third press is the first of another pair
}

void HeatmapCanvas::wheelEvent(QWheelEvent* event)
{
    const int notches = event->angleDelta().y();
    if (notches == 0 || !d->cells.contains(event->position().toPoint())) return;
    const double factor = notches > 0 ? 0.8 : 1.25;
    const QRect w = d->window;
    const QPoint p = event->position().toPoint();
    const double fx = static_cast<double>(p.x() - d->cells.left()) / std::max(1, d->cells.width());
    const double fy = static_cast<double>(p.y() - d->cells.top()) / std::max(1, d->cells.height());
    const int width = std::clamp(static_cast<int>(std::lround(w.width() * factor)), std::min(8, d->columnCount()), d->columnCount());
    const int height = std::clamp(static_cast<int>(std::lround(w.height() * factor)), std::min(4, d->rowCount()), d->rowCount());
    const int left = w.left() + static_cast<int>(std::lround(fx * (w.width() - width)));
    const int top = w.top() + static_cast<int>(std::lround(fy * (w.height() - height)));
    d->setWindow(QRect(left, top, width, height), true);
    event->accept();
}

void HeatmapCanvas::keyPressEvent(QKeyEvent* event) { d->key(event); }

void HeatmapCanvas::leaveEvent(QEvent*) { d->hover->clear(); }

void HeatmapCanvas::focusInEvent(QFocusEvent* event)
{
    QCustomPlot::focusInEvent(event);
    keyFocus =
        event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason || event->reason() == Qt::ShortcutFocusReason;
    if (!d->selection->current().valid() && d->rowCount() > 0 && event->reason() != Qt::MouseFocusReason) {
        for (int l = 0; l < d->rowCount(); ++l) {
            if (d->expertsOf(l) == 0) continue;
            d->selection->setCurrent({l, 0});
            break;
        }
    }
    d->replotOverlay();
    d->told = {};  // the keyboard came: where it is, is news
    d->announce();
}

void HeatmapCanvas::focusOutEvent(QFocusEvent* event)
{
    QCustomPlot::focusOutEvent(event);
    d->steps->finish();
    d->replotOverlay();
}

void HeatmapCanvas::contextMenuEvent(QContextMenuEvent* event)
{
    QPoint at = event->pos();
    if (event->reason() == QContextMenuEvent::Keyboard) at = d->cellBox(d->selection->current()).center();
    d->contextMenu(at, mapToGlobal(at));
}

bool HeatmapCanvas::event(QEvent* event)
{
    if (event->type() == QEvent::ToolTip) {
        auto* help = static_cast<QHelpEvent*>(event);
        const CellId cell = d->q->cellAt(help->pos());
        if (cell.valid())
            QToolTip::showText(help->globalPos() + QPoint(12, 12), d->tooltip(cell), this, d->cellBox(cell));
        else
            QToolTip::hideText();
        return true;
    }
    return QCustomPlot::event(event);
}

int HeatmapView::Private::labelAt(const QPoint& p) const
{
    return hasScores && p.x() < cells.left() && p.y() >= cells.top() && p.y() <= cells.bottom() ? rowAt(p.y()) : -1;
}

void HeatmapView::Private::selectBox(const QRect& box)
{
    std::set<CellId> chosen;
    for (int row = box.top(); row <= box.bottom(); ++row) {
        for (int column = box.left(); column <= std::min(box.right(), expertsOf(row) - 1); ++column)
            chosen.insert({row, experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]});
    }
    selection->select(std::move(chosen));
}

void HeatmapView::Private::moveCursor(int columnStep, int rowStep, bool extend)
{
    CellId cell = selection->current();
    if (!validCell(cell)) {
        for (int l = 0; l < rowCount(); ++l) {
            if (expertsOf(l) > 0) {
                selection->setCurrent({l, 0});
                return;
            }
        }
        return;
    }
    int column = columns[static_cast<std::size_t>(cell.layer)][static_cast<std::size_t>(cell.expert)];
    int row = cell.layer;
    if (rowStep != 0) {
        const int direction = rowStep > 0 ? 1 : -1;
        int target = std::clamp(row + rowStep, 0, rowCount() - 1);
        // Dense layers are stepped over; at the edge the cursor stays on the last layer with experts.
        while (target >= 0 && target < rowCount() && expertsOf(target) == 0)
            target += direction;
        if (target < 0 || target >= rowCount()) {
            target = std::clamp(row + rowStep, 0, rowCount() - 1);
            while (target != row && expertsOf(target) == 0)
                target -= direction;
        }
        row = target;
    }
    column = std::clamp(column + columnStep, 0, std::max(0, expertsOf(row) - 1));
    const CellId next{row, experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]};
    if (extend) {
        if (!anchor.valid()) anchor = cell;
        const int anchorColumn = q->columnOf(anchor);
        selectBox(QRect(QPoint(std::min(anchorColumn, column), std::min(anchor.layer, row)),
                        QPoint(std::max(anchorColumn, column), std::max(anchor.layer, row))));
    } else {
        anchor = next;
    }
    // Keeps the cursor in sight when zoomed.
    QRect view = window;
    if (column < view.left()) view.moveLeft(column);
    if (column > view.right()) view.moveRight(column);
    if (row < view.top()) view.moveTop(row);
    if (row > view.bottom()) view.moveBottom(row);
    setWindow(view, false);
    selection->setCurrent(next);
}

void HeatmapView::Private::requestToggle(CellId c)
{
    const std::set<CellId>& chosen = selection->selected();
    if (chosen.size() > 1 && chosen.contains(c))
        emit q->setKeptRequested(chosen, !kept(c));
    else
        emit q->toggleRequested(c.layer, c.expert);
}

// The cursor, and the steps of its layer's count and rank.
bool HeatmapView::Private::stepKey(QKeyEvent* event)
{
    const CellId cell = selection->current();
    const bool shift = event->modifiers() & Qt::ShiftModifier;
    const bool control = event->modifiers() & Qt::ControlModifier;
    const auto keepStep = [&](int delta) {
        if (cell.layer < 0 || expertsOf(cell.layer) == 0) return;
        steps->step();
        emit q->keepStepRequested(cell.layer, delta);
    };
    const auto rankStep = [&](int direction) {
        if (cell.layer < 0 || expertsOf(cell.layer) == 0) return;
        steps->step();
        emit q->rankStepRequested(cell.layer, direction, shift);
    };
    switch (event->key()) {
        case Qt::Key_Left:
            control ? rankStep(-1) : moveCursor(-1, 0, shift);
            return true;
        case Qt::Key_Right:
            control ? rankStep(1) : moveCursor(1, 0, shift);
            return true;
        case Qt::Key_Up:
            control ? keepStep(shift ? 5 : 1) : moveCursor(0, -1, shift);
            return true;
        case Qt::Key_Down:
            control ? keepStep(shift ? -5 : -1) : moveCursor(0, 1, shift);
            return true;
        case Qt::Key_BracketRight:
            keepStep(shift ? 5 : 1);
            return true;
        case Qt::Key_BracketLeft:
            keepStep(shift ? -5 : -1);
            return true;
        case Qt::Key_BraceRight:
            keepStep(5);
            return true;
        case Qt::Key_BraceLeft:
            keepStep(-5);
            return true;
        case Qt::Key_Home:
            moveCursor(-columnCount(), 0, shift);
            return true;
        case Qt::Key_End:
            moveCursor(columnCount(), 0, shift);
            return true;
        case Qt::Key_PageUp:
            moveCursor(0, -10, shift);
            return true;
        case Qt::Key_PageDown:
            moveCursor(0, 10, shift);
            return true;
        default:
            return false;
    }
}

// A key that is held edits once.
bool HeatmapView::Private::editKey(QKeyEvent* event)
{
    const CellId cell = selection->current();
    const bool control = event->modifiers() & Qt::ControlModifier;
    switch (event->key()) {
        case Qt::Key_Space:
            if (validCell(cell) && !event->isAutoRepeat()) requestToggle(cell);
            return true;
        case Qt::Key_P:
            if (control) return false;
            if (validCell(cell) && !event->isAutoRepeat()) emit q->protectRequested(cell.layer, cell.expert);
            return true;
        case Qt::Key_L:
            if (control) return false;
            if (cell.valid() && !event->isAutoRepeat()) emit q->lockRequested(cell.layer);
            return true;
        case Qt::Key_C:
            if (control) return false;
            if (validCell(cell) && !event->isAutoRepeat()) requestConstant(cell);
            return true;
        case Qt::Key_S:
            if (control) return false;
            if (cell.valid() && cell.layer < rowCount() && !event->isAutoRepeat()) emit q->skipRequested(cell.layer, !skipped(cell.layer));
            return true;
        default:
            return false;
    }
}

bool HeatmapView::Private::selectionKey(QKeyEvent* event)
{
    const CellId cell = selection->current();
    const bool control = event->modifiers() & Qt::ControlModifier;
    switch (event->key()) {
        case Qt::Key_F: {
            if (control || selection->selected().empty()) return false;
            QRect around;
            for (const CellId& c : selection->selected()) {
                if (validCell(c)) around = around.united(QRect(q->columnOf(c), c.layer, 1, 1));
            }
            if (!around.isNull()) setWindow(around.adjusted(-1, -1, 1, 1), true);
            return true;
        }
        case Qt::Key_Backspace:
            if (!zoomBack.empty()) {
                const QRect back = zoomBack.back();
                zoomBack.pop_back();
                setWindow(back, false);
            }
            return true;
        case Qt::Key_Period:
        case Qt::Key_Comma: {
            const std::set<CellId>& chosen = selection->selected();
            if (chosen.empty()) return true;
            auto at = event->key() == Qt::Key_Period ? chosen.upper_bound(cell) : chosen.lower_bound(cell);
            if (event->key() == Qt::Key_Period)
                at = at == chosen.end() ? chosen.begin() : at;
            else
                at = at == chosen.begin() ? std::prev(chosen.end()) : std::prev(at);
            selection->setCurrent(*at);
            return true;
        }
        case Qt::Key_Escape:
            if (selection->selected().empty()) return false;
            selection->clear();
            return true;
        default:
            return false;
    }
}

void HeatmapView::Private::key(QKeyEvent* event)
{
    if (!stepKey(event) && !editKey(event) && !selectionKey(event)) event->ignore();
}

// Constants again where they are constants already: they compute again.
void HeatmapView::Private::requestConstant(CellId c)
{
    const std::set<CellId>& chosen = selection->selected();
    const std::set<CellId> cells = chosen.size() > 1 && chosen.contains(c) ? chosen : std::set<CellId>{c};
    if (stateOf(c) == ExpertState::Constant && hasPlan() && plan.layer(c.layer).isConstant(c.expert))
        emit q->setKeptRequested(cells, true);
    else
        emit q->constantRequested(cells, ConstantKind::Mean);
}

void HeatmapView::Private::addConstantActions(QMenu& menu, CellId cell)
{
    const bool many = selection->selected().size() > 1 && selection->isSelected(cell);
    const std::set<CellId> cells = many ? selection->selected() : std::set<CellId>{cell};
    const QString why = many ? constantsProblem : whyNoConstant(shape, plan, cell, constantsProblem);
    for (const ConstantKind kind : {ConstantKind::Mean, ConstantKind::Weighted}) {
        QAction* action =
            menu.addAction(many ? HeatmapView::tr("Constants in place of %n expert(s), %1", nullptr, static_cast<int>(cells.size()))
                                      .arg(constantTitle(kind))
                                : HeatmapView::tr("Constant in place of the expert, %1").arg(constantTitle(kind)));
        if (kind == ConstantKind::Mean) action->setShortcut(Qt::Key_C);
        action->setEnabled(why.isEmpty());
        action->setToolTip(why);
        QObject::connect(action, &QAction::triggered, q, [this, cells, kind] { emit q->constantRequested(cells, kind); });
    }
}

void HeatmapView::Private::addLayerActions(QMenu& menu, int layer)
{
    if (expertsOf(layer) > 0) {
        QAction* lock = menu.addAction(lockedLayer(layer) ? HeatmapView::tr("Unlock layer %1").arg(layer)
                                                          : HeatmapView::tr("Lock layer %1").arg(layer));
        lock->setShortcut(Qt::Key_L);
        QObject::connect(lock, &QAction::triggered, q, [this, layer] { emit q->lockRequested(layer); });
    }
    const bool off = hasPlan() && plan.layer(layer).run() == LayerRun::Skipped;
    QAction* skip = menu.addAction(off ? HeatmapView::tr("Run layer %1").arg(layer) : HeatmapView::tr("Skip layer %1").arg(layer));
    const QString why = whyNoSkip(shape, plan, layer);
    skip->setShortcut(Qt::Key_S);
    skip->setEnabled(why.isEmpty());
    skip->setToolTip(why);
    QObject::connect(skip, &QAction::triggered, q, [this, layer, off] { emit q->skipRequested(layer, !off); });
}

void HeatmapView::Private::contextMenu(const QPoint& at, const QPoint& global)
{
    QMenu menu(q);
    menu.setToolTipsVisible(true);
    const CellId cell = q->cellAt(at);
    if (const int row = labelAt(at); row >= 0) {
        selection->setCurrentLayer(row);
        addLayerActions(menu, row);
        menu.addSeparator();
    }
    if (validCell(cell)) {
        if (!selection->isSelected(cell)) selection->setCurrent(cell);
        const bool many = selection->selected().size() > 1 && selection->isSelected(cell);
        if (many) {
            const std::set<CellId> chosen = selection->selected();
            const int count = static_cast<int>(chosen.size());
            QObject::connect(menu.addAction(HeatmapView::tr("Keep %n expert(s)", nullptr, count)), &QAction::triggered, q,
                             [this, chosen] { emit q->setKeptRequested(chosen, true); });
            QObject::connect(menu.addAction(HeatmapView::tr("Drop %n expert(s)", nullptr, count)), &QAction::triggered, q,
                             [this, chosen] { emit q->setKeptRequested(chosen, false); });
        } else {
            QAction* toggle = menu.addAction(kept(cell) ? HeatmapView::tr("Drop expert") : HeatmapView::tr("Keep expert"));
            toggle->setShortcut(Qt::Key_Space);
            QObject::connect(toggle, &QAction::triggered, q, [this, cell] { emit q->toggleRequested(cell.layer, cell.expert); });
        }
        addConstantActions(menu, cell);
        QAction* guard = menu.addAction(isProtected(cell) ? HeatmapView::tr("Stop protecting expert") : HeatmapView::tr("Protect expert"));
        guard->setShortcut(Qt::Key_P);
        QObject::connect(guard, &QAction::triggered, q, [this, cell] { emit q->protectRequested(cell.layer, cell.expert); });
        addLayerActions(menu, cell.layer);
        menu.addSeparator();
    }
    QMenu* maps = menu.addMenu(HeatmapView::tr("Colours"));
    for (const ColourMap choice : {ColourMap::Viridis, ColourMap::Cividis, ColourMap::Magma, ColourMap::Grey}) {
        QAction* action = maps->addAction(colourMapId(choice));
        action->setCheckable(true);
        action->setChecked(options.mapInForce() == choice);
        QObject::connect(action, &QAction::triggered, q, [this, choice] {
            (options.ranks() ? options.rankMap : options.map) = choice;
            userChanged();
        });
    }
    if (!zoomBack.empty()) {
        QObject::connect(menu.addAction(HeatmapView::tr("Show all")), &QAction::triggered, q, [this] {
            zoomBack.clear();
            setWindow(QRect(0, 0, columnCount(), rowCount()), false);
        });
    }
    menu.exec(global);
}

void HeatmapView::Private::userChanged()
{
    q->setOptions(HeatmapOptions(options));
    emit q->optionsChanged(options);
}

}  // namespace espalier
